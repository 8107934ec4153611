"""Chats as token ids: by the tokenizer's own Jinja template, or by a named one.

A chat template writes special tokens as text. What is written like one in a message must stay text, so it is
taken out while a Jinja template is rendered, and encoded as text in its place. Torch-free.

A template comes with a checkpoint and is trusted as the tokenizer is: jinja2's sandbox keeps it from all but
text, and ranges within 100 000 steps, but one that nests loops can keep the engine busy for long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NoReturn, Protocol

from engine.errors import ConfigError, RequestError
from engine.request import ChatPrompt, Message
from engine.templates import CHAT_TEMPLATES, ChatForm, Special
from engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jinja2 import Template

_PRIVATE = range(0xF0000, 0xFFFFE)
"""Unicode's first supplementary area of characters for private use."""


class ChatTemplate(Protocol):
    """How a model wants its chats."""

    @property
    def end_tokens(self) -> Sequence[str]:
        """Tokens that end an answer, beside those that the checkpoint names."""
        ...

    def encode(self, prompt: ChatPrompt) -> list[int]:
        """Ids of `prompt`, up to where the answer begins. Raises RequestError where it cannot be rendered."""
        ...


def load(tokenizer: Tokenizer, name: str | None) -> ChatTemplate | None:
    """The template called `name`, or else the tokenizer's own; None if there is neither.

    Raises ConfigError if the tokenizer lacks a special token of the one that is named.
    """
    if name is not None:
        return NamedTemplate(CHAT_TEMPLATES[name], tokenizer)
    if tokenizer.chat_template is not None:
        return JinjaTemplate(tokenizer.chat_template, tokenizer)
    return None


class NamedTemplate:
    """One of `engine.templates.CHAT_TEMPLATES`."""

    def __init__(self, form: ChatForm, tokenizer: Tokenizer) -> None:
        self._form = form
        self._tokenizer = tokenizer
        self._control = _pattern(form.special_tokens)
        missing = [token for token in form.special_tokens if tokenizer.find_special(token) is None]
        if missing:
            raise ConfigError(
                f"chat_template = {form.name!r} needs {' '.join(missing)}, which the target's tokenizer does "
                "not have; choose another, or leave it out for the tokenizer's own"
            )

    @property
    def end_tokens(self) -> Sequence[str]:
        """Tokens that end an answer."""
        return self._form.end_tokens

    def encode(self, prompt: ChatPrompt) -> list[int]:
        """Ids of `prompt`, up to where the answer begins."""
        ids: list[int] = []
        for piece in self._form.render(prompt):
            if isinstance(piece, Special):
                ids.append(self._tokenizer.special(piece.token))
            else:
                ids += _as_text(piece.text, self._control, self._tokenizer)
        return ids


class JinjaTemplate:
    """A template as Hugging Face's tokenizers have it ("Chat templates" in transformers' documentation)."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._source = source
        self._tokenizer = tokenizer
        specials = tokenizer.specials()
        # Tokenizers call some of what separates turns plain words, which only the template tells.
        self._control = _pattern(
            token for token in tokenizer.marks().values() if token in specials or token in source
        )

    @property
    def end_tokens(self) -> Sequence[str]:
        """The tokenizer's own end token, if it names one."""
        end = self._tokenizer.named_tokens.get("eos_token")
        return [end] if isinstance(end, str) else []

    def encode(self, prompt: ChatPrompt) -> list[int]:
        """Ids of `prompt`, up to where the answer begins. Raises RequestError where it cannot be rendered."""
        taken_out: list[str] = []
        mark = _unused_character(prompt.messages)

        def take_out(found: re.Match[str]) -> str:
            taken_out.append(found[0])
            return f"{mark}{len(taken_out) - 1}{mark}"

        contents = [self._control.sub(take_out, message.content) for message in prompt.messages]
        if prompt.is_open:
            contents[-1] += mark * 2
        text = self._rendered(prompt, contents)
        if prompt.is_open:
            text, found, _ = text.rpartition(mark * 2)
            if not found:
                raise RequestError("messages: the chat template does not let the last one go on", "messages")
        parts = re.split(f"{mark}([0-9]+){mark}", text)
        return [
            token
            for at, part in enumerate(parts)
            for token in (
                _as_text(taken_out[int(part)], self._control, self._tokenizer)
                if at % 2
                else self._tokenizer.encode_marked(part)
            )
        ]

    def _rendered(self, prompt: ChatPrompt, contents: Sequence[str]) -> str:
        messages = [
            {"role": message.role, "content": content}
            for message, content in zip(prompt.messages, contents, strict=True)
        ]
        try:
            return self._template.render(
                **self._tokenizer.named_tokens,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=not prompt.is_open,
            )
        except Exception as error:  # It is code, and can fail in every way there is.
            raise RequestError(
                f"messages: the model's chat template refuses them ({error})", "messages"
            ) from error

    @cached_property
    def _template(self) -> Template:
        """The template, with what transformers gives it. Raises jinja2.TemplateError if it is broken."""
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.parser import Parser
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """Reads ``{% generation %}``, which tells training what an assistant wrote, as what it holds."""

            tags = {"generation"}  # noqa: RUF012 - jinja2 declares it without ClassVar

            def parse(self, parser: Parser) -> list[nodes.Node]:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def refuse(message: str) -> NoReturn:
            raise TemplateError(message)

        def now(form: str) -> str:
            return datetime.now().strftime(form)  # noqa: DTZ005 - the user's own day

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        environment.filters["tojson"] = _as_json
        ours = {"raise_exception": refuse, "strftime_now": now}
        return environment.from_string(self._source, globals=ours)


def _as_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter ``tojson`` as transformers has it; jinja2's escapes what means something in HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Finds `tokens`, of two that begin alike the longer one."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _as_text(text: str, control: re.Pattern[str], tokenizer: Tokenizer) -> list[int]:
    """Ids of `text`, none of which is a token that `control` finds: those are broken up."""
    cuts, at = [0], 0
    while found := control.search(text, at):
        at = found.start() + 1
        cuts.append(at)
    pieces = (text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True))
    return list(chain.from_iterable(tokenizer.encode(piece) for piece in pieces))


def _unused_character(messages: Sequence[Message]) -> str:
    """A character that no message has. Raises RequestError."""
    used = set[str]().union(*(message.content for message in messages))
    free = next((chr(code) for code in _PRIVATE if chr(code) not in used), None)
    if free is None:
        raise RequestError("messages: they use every character for private use; leave some out", "messages")
    return free
