"""Prompts for a target that runs elsewhere: with its tokenizer and config.json, without weights or torch.

The word at the cursor stays in the prompt: no server can be held to write it again; see `engine.healing`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from engine import chat_template
from engine.checkpoint import find_description
from engine.config import EngineConfig
from engine.errors import ConfigError, RequestError
from engine.model_config import read_json
from engine.progress import Progress
from engine.prompt import BuiltPrompt, PromptBuilder
from engine.request import GenerationRequest
from engine.templates import TEMPLATES
from engine.tokenizer import Tokenizer
from engine.vocabulary import TokenizerVocabulary


@dataclass(frozen=True, slots=True)
class _Described:
    """What is needed of a `config.json`, whatever its architecture."""

    max_position_embeddings: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RemotePrompts:
    """Renders requests for a target elsewhere."""

    builder: PromptBuilder
    tokenizer: Tokenizer
    vocabulary: TokenizerVocabulary
    begin_token: int | None
    end_tokens: frozenset[int]
    marks: dict[int, str]
    """What a server would not read as ordinary text, by id."""
    put_in_front: tuple[int, ...]
    """What it puts in front of a text by itself."""

    @staticmethod
    def load(
        config: EngineConfig, fetching: Progress | None = None, at_most: int | None = None
    ) -> RemotePrompts:
        """Read what `config.model` needs here.

        `at_most`: the tokens of context that the servers have, where they tell. Raises CheckpointError or
        ConfigError.
        """
        folder = find_description(config.target, fetching)
        tokenizer = Tokenizer.load(folder)
        described = read_json(folder / "config.json", _Described)
        generation = folder / "generation_config.json"
        generating = read_json(generation, _Described) if generation.is_file() else _Described()
        lengths = [at_most, config.max_length or described.max_position_embeddings]
        known = [length for length in lengths if length is not None]
        if not known:
            raise ConfigError(
                f"neither {folder / 'config.json'} nor a server says how long a context may be; "
                "set max_length"
            )
        template, chats = TEMPLATES[config.template], chat_template.load(tokenizer, config.chat_template)
        marks = tokenizer.marks()  # As servers have them, which do not know of the next line.
        tokenizer.reserve((*template.special_tokens, *template.end_tokens))
        end_tokens = (*template.end_tokens, *(chats.end_tokens if chats else ()))
        ends = {token for end in end_tokens if (token := tokenizer.find_special(end)) is not None}
        eos = described.eos_token_id if generating.eos_token_id is None else generating.eos_token_id
        begin = described.bos_token_id if generating.bos_token_id is None else generating.bos_token_id
        return RemotePrompts(
            builder=PromptBuilder(template, tokenizer, min(known), chats=chats, heals=False),
            tokenizer=tokenizer,
            vocabulary=TokenizerVocabulary(tokenizer, begin, min(known)),
            begin_token=begin,
            end_tokens=frozenset(ends).union(() if eos is None else (eos,) if isinstance(eos, int) else eos),
            marks=marks,
            put_in_front=tokenizer.put_in_front(),
        )

    @property
    def max_length(self) -> int:
        """Tokens of context, prompt and answer together."""
        return self.vocabulary.max_length

    def build(self, request: GenerationRequest) -> BuiltPrompt:
        """The prompt of `request`. Raises RequestError if there can be none."""
        return self.builder.build(request, self.begin_token)

    def room(self, request: GenerationRequest, prompt: BuiltPrompt) -> int:
        """How many tokens may follow `prompt`."""
        return min(request.max_tokens, self.max_length - len(prompt.tokens))

    def written(self, tokens: Sequence[int]) -> str:
        """`tokens` as text from which a server makes the same special tokens, and no others.

        What looks like one in ordinary text gets a blank behind its first character. Raises ConfigError where
        the template needs a token that cannot be written.
        """
        front = len(self.put_in_front)
        sent = tokens[front:] if tuple(tokens[:front]) == self.put_in_front else tokens
        written = sorted(self.marks.values(), key=len, reverse=True)
        mark = re.compile("|".join(map(re.escape, written)) or "(?!)")
        specials = {*self.marks, *self.tokenizer.specials().values()}
        text, meant = "", list[str]()
        for is_special, run in groupby(sent, specials.__contains__):
            if is_special:
                marks = [self._mark(token) for token in run]
                text, meant = text + "".join(marks), meant + marks
            else:
                text += _broken_up(self._plain(tuple(run)), mark)
        if mark.findall(text) != meant:
            raise RequestError("the prompt has text that would become a special token; change it", "prompt")
        return text

    def _mark(self, token: int) -> str:
        if token not in self.marks:
            raise ConfigError(
                f"{self.tokenizer.written(token)} cannot be sent as text to a server: set prompts to ids, or "
                "choose another template"
            )
        return self.marks[token]

    def _plain(self, tokens: Sequence[int]) -> str:
        """What `tokens` write behind other text."""
        # Some tokenizers leave out the blank that a text begins with: something has to stand before it.
        before = self.tokenizer.encode("a")[-1:]
        return self.tokenizer.decode([*before, *tokens])[len(self.tokenizer.decode(before)) :]


def _broken_up(text: str, mark: re.Pattern[str]) -> str:
    """`text` with a blank in everything that `mark` matches."""
    while mark.search(text):
        # Behind what is no blank: one more in front of a mark would leave it a mark.
        text = mark.sub(lambda found: re.sub(r"\S", r"\g<0> ", found[0], count=1), text)
    return text
