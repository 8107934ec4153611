"""OpenAI's ``/v1/completions`` as servers speak it: what they are asked, and what they stream back. Pure.

Stop rules are not sent: what ends a text is looked for here, where all of them are known, and the connection
is closed there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

import msgspec

from engine.api.body import MAX_BIAS
from engine.request import GenerationRequest

Kind = Literal["vllm", "sglang", "llamacpp", "umbrella-lsp", "other"]
"""Whose server it is: what it takes beside OpenAI's own fields."""

MAX_LINE_BYTES = 1 << 20
"""A line of a stream that is longer is no event of a token or a few."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON that somebody else has written raises."""


class Garbage(Exception):
    """What came is no stream of completions; the message says what it was."""


class Card(msgspec.Struct):
    """An entry of ``/v1/models``."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None


class Cards(msgspec.Struct):
    """The body of ``/v1/models``."""

    data: list[Card]


class _Likely(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    id: int | None = None
    top_logprobs: list[_Likely] | None = None

    @property
    def named(self) -> str:
        """Its id, as vLLM would write it, or its text."""
        return self.token if self.id is None else f"token_id:{self.id}"


class Logprobs(msgspec.Struct):
    """OpenAI's lists, or llama-server's list of objects."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[_Likely] | None = None


class Choice(msgspec.Struct):
    """A piece of the text."""

    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None

    @property
    def says_something(self) -> bool:
        """Whether there is any text in it, a token, or an end."""
        told = self.logprobs and (self.logprobs.tokens or self.logprobs.content)
        return bool(self.text or self.token_ids or told or self.finish_reason)


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens, as the server counts them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None

    @property
    def cached(self) -> int:
        """Of the prompt, what had not to be evaluated again."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class Event(msgspec.Struct):
    """What one line of a stream says."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: object = None

    @property
    def says_something(self) -> bool:
        """Whether there is more than counts and empty lists: without end, those are no answer."""
        return any(choice.says_something for choice in self.choices)

    @property
    def ends_text(self) -> bool:
        """Whether the server says that no more text comes."""
        return any(choice.finish_reason for choice in self.choices)


_events = msgspec.json.Decoder(Event)
_cards = msgspec.json.Decoder(Cards)


def read_cards(data: bytes) -> list[Card]:
    """The models that a server lists. Raises Garbage."""
    try:
        return _cards.decode(data).data
    except UNREADABLE as error:
        raise Garbage("what it lists as its models is no such list") from error


def kind_of(card: Card) -> Kind:
    """Whose server lists `card`."""
    match card.owned_by:
        case "vllm" | "sglang" | "llamacpp" | "umbrella-lsp":
            return card.owned_by
        case _:
            return "other"


def body_of(
    request: GenerationRequest,
    prompt: Sequence[int] | str,
    max_tokens: int,
    *,
    model: str,
    kind: Kind,
    ends: Collection[int],
) -> dict[str, object]:
    """The JSON object that asks a server of `kind` for `request`; `ends` are the tokens that end a text.

    Where a server has defaults of its own, as vLLM takes them from the checkpoint, what does nothing is said
    as well. What a server cannot do is left out.
    """
    body: dict[str, object] = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature > 0:
        body["seed"] = request.seed
    for name in ("presence_penalty", "frequency_penalty"):
        if penalty := getattr(request, name):
            body[name] = penalty
    if request.logit_bias:
        body["logit_bias"] = {str(token): max(bias, -MAX_BIAS) for token, bias in request.logit_bias}
    if kind != "other" or request.top_logprobs:
        body["logprobs"] = max(1, request.top_logprobs)
    return body | _extensions(request, kind, ends)


def _extensions(request: GenerationRequest, kind: Kind, ends: Collection[int]) -> dict[str, object]:
    if kind == "other":
        return {}
    common: dict[str, object] = {"min_p": request.min_p, "ignore_eos": request.ignore_end}
    if kind == "llamacpp":
        return common | {"top_k": request.top_k, "repeat_penalty": request.repetition_penalty}
    common |= {"top_k": request.top_k or -1, "repetition_penalty": request.repetition_penalty}
    if kind == "umbrella-lsp":
        ours = {"priority": request.priority, "session": request.session, "speculative": request.speculative}
        return common | {"top_k": request.top_k, "return_token_ids": True, "umbrella": ours}
    if not request.ignore_end:
        common["stop_token_ids"] = sorted(ends)
    if kind == "vllm":
        common["return_tokens_as_token_ids"] = True
    return common


class EventLines:
    """Server-sent events out of bytes as they come. Holds at most one line, of bounded length."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Event | None]:
        """The events that `data` completes; None is the farewell. Raises Garbage."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        if max(map(len, (*lines, rest))) > MAX_LINE_BYTES:
            raise Garbage("a line of it has no end")
        self._rest = bytearray(rest)
        for line in lines:
            name, _, value = bytes(line).rstrip(b"\r").partition(b":")
            if name == b"data":
                yield _event(value.strip())


def _event(data: bytes) -> Event | None:
    if data == b"[DONE]":
        return None
    try:
        return _events.decode(data)
    except UNREADABLE as error:
        raise Garbage("an event of it is no completion") from error
