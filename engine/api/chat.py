"""OpenAI's ``POST /v1/chat/completions``. What it can ask for and we do not do is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.api.choices import require_room, several
from engine.api.logprobs import chat_logprobs
from engine.api.openai import (
    MAX_TOP_LOGPROBS,
    Frame,
    OpenAiBody,
    finish_reason,
    generation,
)
from engine.api.respond import Texts
from engine.config import EngineConfig
from engine.executor import Executor
from engine.jobs import Chunk
from engine.request import ChatPrompt, GenerationRequest, Message
from engine.schema import require_between

WHAT_IS_LEFT = 1 << 20
"""Tokens to generate where a request does not say: more than any context holds, so what it leaves."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a message's content."""

    type: str
    text: str = ""

    def __post_init__(self) -> None:
        if self.type != "text":
            raise ValueError(f"type must be 'text': this engine cannot read {self.type!r}")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One of OpenAI's messages."""

    role: Literal["system", "developer", "user", "assistant"]
    """``developer`` is newer models' word for ``system``."""
    content: str | tuple[Part, ...] | None = None
    tool_calls: object = None
    function_call: object = None

    def __post_init__(self) -> None:
        if self.content is None and self.role != "assistant":
            raise ValueError("content must be text")
        for name in ("tool_calls", "function_call"):
            if getattr(self, name):
                raise ValueError(f"{name} is not supported: this engine calls no tools; leave it out")

    @property
    def as_message(self) -> Message:
        """The message as text."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """OpenAI's `response_format`."""

    type: str = "text"

    def __post_init__(self) -> None:
        if self.type != "text":
            raise ValueError(f"type must be 'text': {self.type!r} is not supported")


@dataclass(frozen=True, slots=True)
class ChatBody(OpenAiBody):
    """The body of ``POST /v1/chat/completions``. If there is no `max_tokens`, what the context leaves."""

    messages: tuple[ChatMessage, ...]
    """Where the last one is the assistant's, the answer goes on with it."""
    max_completion_tokens: int | None = None
    """The newer name of `max_tokens`, and goes before it."""
    n_predict: int | None = None
    """llama-server's name of it: -1 is None, and 0 only evaluates and caches the prompt."""
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
    modalities: tuple[str, ...] = ("text",)
    tools: object = None
    functions: object = None
    audio: object = None

    def __post_init__(self) -> None:
        OpenAiBody.__post_init__(self)
        if not self.messages:
            raise ValueError("messages must hold at least one message")
        require_between("max_completion_tokens", self.max_completion_tokens, 1, 1 << 20)
        require_between("n_predict", self.n_predict, -1, 1 << 20)
        require_between("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.modalities != ("text",):
            raise ValueError('modalities must be ["text"]: this engine writes nothing else')
        for name in ("tools", "functions", "audio"):
            if getattr(self, name):
                raise ValueError(f"{name} is not supported; leave it out")
        if self.umbrella.segments:
            raise ValueError("umbrella.segments are for code; send messages alone")


def to_requests(body: ChatBody, config: EngineConfig, adapter: str = "") -> list[GenerationRequest]:
    """The generations that `body` asks for, one for each choice. Raises RequestError."""
    messages = tuple(message.as_message for message in body.messages)
    require_room(body.n, "n", body.umbrella, config)
    prompt = ChatPrompt(messages, is_open=messages[-1].role == "assistant")
    request = replace(
        generation(body, prompt, config, adapter),
        max_tokens=_length(body),
        top_logprobs=body.top_logprobs or 0,
    )
    return list(several(request, body.n))


def _length(body: ChatBody) -> int:
    """Tokens to generate at most; 0 for none."""
    predicted = None if body.n_predict == -1 else body.n_predict
    asked = [body.max_completion_tokens, body.max_tokens, predicted]
    return next((length for length in asked if length is not None), WHAT_IS_LEFT)


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """Words answers as OpenAI does."""

    body: ChatBody
    executor: Executor
    frame: Frame
    endpoint: str = "/v1/chat/completions"
    length_field: str = "max_tokens"
    farewell: bytes = b"data: [DONE]\n\n"

    @property
    def stream(self) -> bool:
        """Whether chunks are told as they come."""
        return self.body.stream

    def events(self, job: int, chunk: Chunk, /) -> Iterator[object]:
        """One event a chunk, the first of a choice with its role, and perhaps a last one for `usage`."""
        is_first, length = self.frame.tally.note(job, chunk)
        delta = {"role": "assistant"} if is_first else {}
        choice = {"delta": {**delta, "content": chunk.text}, **self._choice(job + chunk.index, chunk, length)}
        yield from self.frame.events("chat.completion.chunk", choice, chunk)

    def whole(self, jobs: Sequence[Texts], /) -> object:
        """A `chat.completion` object with a choice for each text."""
        self.frame.tally.note_all(jobs)
        chunks = [chunk for texts in jobs for chunk in texts]
        choices = [
            {
                "message": {"role": "assistant", "content": chunk.text, "refusal": None},
                **self._choice(index, chunk, len(chunk.text)),
            }
            for index, chunk in enumerate(chunks)
        ]
        return self.frame.whole("chat.completion", choices, jobs, 0)

    def _choice(self, index: int, chunk: Chunk, length: int) -> dict[str, object]:
        """What `chunk` tells of a choice that has `length` characters with it."""
        words, body = self.executor.vocabulary, self.body
        logprobs = chat_logprobs(chunk, length, words) if body.logprobs and words is not None else None
        choice: dict[str, object] = {
            "index": index,
            "logprobs": logprobs,
            "finish_reason": finish_reason(chunk),
        }
        return {**choice, "token_ids": chunk.tokens} if body.return_token_ids else choice
