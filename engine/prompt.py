"""Fits segments to a token budget and renders them with a template into token ids.

Shares of the budget are fixed, so that what precedes the cursor's code does not change while it
grows, and an over-long prefix loses its beginning in large steps: between two steps a keystroke only
appends to the prompt, and the KV cache of everything before it stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine import request as request_
from engine.chat_template import ChatTemplate
from engine.errors import ContextExceeded, RequestError
from engine.protocol import Fate, Segment, SegmentFate
from engine.request import ChatPrompt, GenerationRequest
from engine.templates import CodePrompt, CodeTemplate, Special
from engine.tokenizer import Tokenizer

CONTEXT_SHARE = 0.3
SUFFIX_SHARE = 0.2
PREFIX_STEP_SHARE = 0.25
"""Of the prefix's own budget: how much is dropped at a time."""
MAX_TOKEN_CHARACTERS = 16
"""Text past the budget times this is cut unseen, so that a huge file costs no more than a large one."""


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A prompt as ids, and what became of each segment of the request."""

    tokens: tuple[int, ...]
    fates: tuple[SegmentFate, ...] = ()
    owed: str = ""
    """The word at the cursor, which `tokens` leave out and the answer has to begin with; see `healing`."""
    stop_strings: tuple[str, ...] = ()
    """What ends the answer in the template that was used, beside end tokens."""
    adapter: object = None
    """What the target runs it with; see `engine.backend.BuiltPrompt`."""

    @property
    def truncated(self) -> bool:
        return any(fate.fate != "kept" for fate in self.fates)


@dataclass(frozen=True, slots=True)
class _Fitted:
    segment: Segment
    size: int
    """Tokens it takes up in the prompt."""
    fate: Fate


def _stepped_drop(length: int, budget: int) -> tuple[int, int]:
    """How much of `length` to drop so that the rest fits `budget`, and the step it is a multiple of."""
    step = max(1, int(budget * PREFIX_STEP_SHARE))
    return -(-max(0, length - budget) // step) * step, step


def trim_start(tokens: list[int], budget: int, starts_line: Callable[[int], bool]) -> list[int]:
    """The end of `tokens` that fits `budget`, cut in steps and, if one is near, at a line's start."""
    drop, step = _stepped_drop(len(tokens), budget)
    if not drop:
        return tokens
    for cut in range(drop, min(drop + step // 2, len(tokens))):
        if starts_line(tokens[cut]):
            return tokens[cut:]
    return tokens[drop:]


class PromptBuilder:
    """Makes prompts of at most `max_length` tokens, generated ones included."""

    def __init__(
        self,
        template: CodeTemplate,
        tokenizer: Tokenizer,
        max_length: int,
        *,
        chats: ChatTemplate | None = None,
        heals: bool = True,
    ) -> None:
        """`heals`: whether the answer can be held to begin with the word at the cursor; see `healing`."""
        self._template = template
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._chats = chats
        self._heals = heals

    def build(self, request: GenerationRequest, begin: int | None) -> BuiltPrompt:
        """The prompt of `request`; `begin` is the token that begins a text. Raises RequestError."""
        prompt, reserve = request.prompt, request.max_tokens
        if isinstance(prompt, request_.CodePrompt):
            return self.code(prompt.segments, prompt.path, prompt.language, reserve)
        if isinstance(prompt, request_.TextPrompt):
            return self.raw(prompt.text, begin, reserve)
        if isinstance(prompt, request_.ChatPrompt):
            return self.chat(prompt)
        return self.ids(prompt.tokens, reserve)

    def raw(self, text: str, begin: int | None, reserve: int) -> BuiltPrompt:
        """`text` as it is, after the begin token; nothing is trimmed. Raises RequestError if too long."""
        self._require_sane(len(text), "prompt")
        ids = ([begin] if begin is not None else []) + self._tokenizer.encode(text)
        return self.ids(ids, reserve)

    def chat(self, prompt: ChatPrompt) -> BuiltPrompt:
        """`prompt` as the model wants its chats; an answer gets what the context leaves.

        Raises RequestError where it is too long or cannot be rendered, or there is no template for chats.
        """
        if self._chats is None:
            raise RequestError(
                "this model cannot chat: its tokenizer has no chat template. Choose an instruct model, or "
                "set chat_template in the engine's configuration."
            )
        # Where a message begins and ends takes a token at least.
        size = sum(len(message.content) + MAX_TOKEN_CHARACTERS for message in prompt.messages)
        self._require_sane(size, "messages")
        tokens = self._chats.encode(prompt)
        if len(tokens) >= self._max_length:
            raise ContextExceeded(
                f"messages: the chat has {len(tokens)} tokens, and the context holds {self._max_length} "
                "with the answer; leave older messages out",
                "messages",
            )
        return BuiltPrompt(tuple(tokens))

    def _require_sane(self, characters: int, field: str) -> None:
        """Refuse unseen what is far too long: encoding it would keep every other request waiting."""
        if characters > self._max_length * MAX_TOKEN_CHARACTERS:
            raise ContextExceeded(
                f"{field}: {characters} characters are too many for a context of {self._max_length} tokens "
                "to hold; shorten it",
                field,
            )

    def ids(self, tokens: Sequence[int], reserve: int) -> BuiltPrompt:
        """A prompt given as ids. Raises RequestError if it is empty, too long, or not of this vocabulary."""
        if not tokens:
            raise RequestError("the prompt is empty; send some text or token ids", "prompt")
        if len(tokens) + reserve > self._max_length:
            raise ContextExceeded(
                f"the prompt has {len(tokens)} tokens and {reserve} are to be generated, but the context "
                f"holds {self._max_length}; shorten the prompt or lower the number to generate",
                "prompt",
            )
        if not all(0 <= token < self._tokenizer.vocab_size for token in tokens):
            raise RequestError(f"token ids must be from 0 to {self._tokenizer.vocab_size - 1}", "prompt")
        return BuiltPrompt(tuple(tokens))

    def code(self, segments: Sequence[Segment], path: str, language: str, reserve: int) -> BuiltPrompt:
        """Render `segments` around the cursor within the context, `reserve` tokens kept free.

        No more than half of the context is kept free: who asks for more gets what fits. Raises
        RequestError if the template alone needs the rest.
        """
        prefix, suffix = self._joined(segments, "prefix"), self._joined(segments, "suffix")
        reserve = min(reserve, self._max_length // 2)
        owed = self._tokenizer.last_word(prefix.text) if self._heals else ""
        context = [s for s in segments if s.kind not in ("prefix", "suffix")]
        bare = CodePrompt(Segment("prefix", ""), path=path, language=language)
        budget = self._max_length - reserve - self._size(bare)
        if budget < 1:
            raise RequestError(
                f"{reserve} tokens to generate leave no room for a prompt in a context of "
                f"{self._max_length}; ask for fewer",
                "max_tokens",
            )
        fitted_suffix = self._fit_suffix(suffix, int(budget * SUFFIX_SHARE))
        fitted_context = self._fit_context(context, int(budget * CONTEXT_SHARE))
        rendered = CodePrompt(
            Segment("prefix", ""),
            suffix=fitted_suffix.segment,
            context=tuple(f.segment for f in fitted_context if f.fate == "kept"),
            path=path,
            language=language,
        )
        head, tail = self._around_prefix(rendered)
        tokens, fate = self._fit_prefix(prefix, owed, self._max_length - reserve - len(head) - len(tail))
        fitted_prefix = _Fitted(prefix, len(tokens), fate)
        fates = self._fates(segments, fitted_prefix, fitted_suffix, fitted_context)
        stop_strings = self._template.stops_behind(prefix.text)
        return BuiltPrompt((*head, *tokens, *tail), fates, owed, stop_strings)

    def _joined(self, segments: Sequence[Segment], kind: str) -> Segment:
        parts = [s for s in segments if s.kind == kind]
        empty = Segment("prefix" if kind == "prefix" else "suffix", "")
        return replace(parts[0], text="".join(p.text for p in parts)) if parts else empty

    def _around_prefix(self, prompt: CodePrompt) -> tuple[list[int], list[int]]:
        """What the template writes in front of the prefix and behind it; the prefix itself is left out."""
        head: list[int] = []
        tail: list[int] = []
        ids = head
        for piece in self._template.render(prompt):
            if isinstance(piece, Special):
                ids.append(self._tokenizer.special(piece.token))
            elif piece.segment is prompt.prefix:
                ids = tail
            else:
                ids += self._tokenizer.encode(piece.text)
        return head, tail

    def _size(self, prompt: CodePrompt) -> int:
        return sum(map(len, self._around_prefix(prompt)))

    def _fit_prefix(self, prefix: Segment, owed: str, budget: int) -> tuple[list[int], Fate]:
        """The prefix without the word `owed` at its end, for which `budget` has to have room all the same."""
        drop, _ = _stepped_drop(len(prefix.text), budget * MAX_TOKEN_CHARACTERS)
        word = self._tokenizer.encode(owed)
        tokens = self._tokenizer.encode(prefix.text[drop:].removesuffix(owed)) + word
        fits = not drop and len(tokens) <= budget
        kept = tokens if fits else trim_start(tokens, budget, self._starts_line)
        return kept[: max(0, len(kept) - len(word))], "kept" if fits else "trimmed"

    def _starts_line(self, token: int) -> bool:
        return self._tokenizer.decode([token]).startswith("\n")

    def _fit_suffix(self, suffix: Segment, budget: int) -> _Fitted:
        limit = budget * MAX_TOKEN_CHARACTERS
        tokens = self._tokenizer.encode(suffix.text[:limit])
        if len(tokens) <= budget and len(suffix.text) <= limit:
            return _Fitted(suffix, len(tokens), "kept")
        text = self._tokenizer.decode(tokens[:budget])
        whole_lines = text.rfind("\n") + 1
        text = text[:whole_lines] if whole_lines else text.rstrip("\N{REPLACEMENT CHARACTER}")
        return _Fitted(replace(suffix, text=text), min(len(tokens), budget), "trimmed" if text else "dropped")

    def _fit_context(self, context: Sequence[Segment], budget: int) -> list[_Fitted]:
        """Whole segments by rank while they fit; in the prompt, stable ones first, otherwise as sent."""
        order = sorted(context, key=lambda s: s.stability != "stable")
        bare = CodePrompt(Segment("prefix", ""))
        bare_size = self._size(bare) if order else 0
        fates: dict[int, _Fitted] = {}
        for segment in sorted(order, key=lambda s: -s.rank):
            may_fit = len(segment.text) <= budget * MAX_TOKEN_CHARACTERS
            # What it adds to a prompt, its heading included.
            size = self._size(replace(bare, context=(segment,))) - bare_size if may_fit else 0
            kept = may_fit and size <= budget
            budget -= size if kept else 0
            fates[id(segment)] = _Fitted(segment, size, "kept") if kept else _Fitted(segment, 0, "dropped")
        return [fates[id(segment)] for segment in order]

    @staticmethod
    def _fates(
        segments: Sequence[Segment], prefix: _Fitted, suffix: _Fitted, context: Sequence[_Fitted]
    ) -> tuple[SegmentFate, ...]:
        by_kind = {"prefix": prefix, "suffix": suffix}
        by_identity = {id(f.segment): f for f in context}
        fitted = [by_kind.get(s.kind) or by_identity[id(s)] for s in segments]
        return tuple(SegmentFate(i, f.fate, f.size) for i, f in enumerate(fitted))
