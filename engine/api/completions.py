"""OpenAI's ``POST /v1/completions``. What it can ask for and we do not do is refused by name."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from engine.api.body import as_strings, chosen_seed, served_tier, token_biases
from engine.api.respond import umbrella_of
from engine.config import EngineConfig
from engine.errors import RequestError
from engine.jobs import Chunk
from engine.protocol import Segment, SegmentKind, StopReason, TokenCounts, UmbrellaRequest
from engine.request import CodePrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from engine.schema import require_between

_LIMITS = (StopReason.LENGTH, StopReason.DEADLINE)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """OpenAI's `stream_options`."""

    include_usage: bool = False


@dataclass(frozen=True, slots=True)
class CompletionBody:
    """The body of ``POST /v1/completions``. None leaves a choice to the engine's configuration."""

    prompt: object
    """A string, a list of token ids, or a list that holds one of these."""
    suffix: str | None = None
    """With text after the cursor, or with segments of `umbrella`, the engine's template is used; without,
    the prompt is taken as it is."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: object = None
    """OpenAI's object or llama-server's list; see `token_biases`."""
    umbrella: UmbrellaRequest = field(default_factory=UmbrellaRequest)

    def __post_init__(self) -> None:
        require_between("max_tokens", self.max_tokens, 1, 1 << 20)
        require_between("temperature", self.temperature, 0, 100)
        require_between("top_p", self.top_p, 0, 1)
        require_between("seed", self.seed, -1, (1 << 63) - 1)
        if "" in as_strings(self.stop):
            raise ValueError("stop must not hold an empty string")
        token_biases(self.logit_bias)
        for name in ("n", "best_of"):
            if getattr(self, name) not in (None, 1):
                raise ValueError(f"{name} must be 1; umbrella.n asks for alternatives")
        for name in ("echo", "logprobs", "presence_penalty", "frequency_penalty"):
            # `logprobs` of 0 asks for the chosen token's; 0 of the others asks for nothing.
            if getattr(self, name) or (name == "logprobs" and self.logprobs is not None):
                raise ValueError(f"{name} is not supported; leave it out")


def to_request(body: CompletionBody, config: EngineConfig) -> GenerationRequest:
    """The generation that `body` asks for. Raises RequestError."""
    ours = body.umbrella
    return GenerationRequest(
        prompt=_prompt(body),
        max_tokens=body.max_tokens or config.generation_length,
        stop=replace(ours.stop, strings=(*ours.stop.strings, *as_strings(body.stop))),
        temperature=config.temperature if body.temperature is None else body.temperature,
        top_k=config.topk,
        top_p=config.topp if body.top_p is None else body.top_p,
        min_p=0.0,
        repetition_penalty=config.repetition_penalty,
        seed=chosen_seed(body.seed),
        logit_bias=token_biases(body.logit_bias),
        session=ours.session,
        workspace=ours.workspace,
        priority=ours.priority,
        tier=served_tier(ours, config),
        alternatives=ours.n,
        speculative=ours.speculative,
    )


def _prompt(body: CompletionBody) -> Prompt:
    prompt, ours = _single(body.prompt), body.umbrella
    if not body.suffix and not ours.segments:
        return TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(prompt)
    if not isinstance(prompt, str):
        name = "suffix" if body.suffix else "umbrella.segments"
        raise RequestError(f"{name} needs a prompt that is text; send it as a string.", name)
    # As in /infill: segments of `umbrella` come first and keep their indices.
    return CodePrompt((*ours.segments, *_ends(body, prompt)), ours.path, ours.language)


def _ends(body: CompletionBody, prompt: str) -> Iterator[Segment]:
    kinds = {segment.kind for segment in body.umbrella.segments}
    ends: tuple[tuple[str, SegmentKind, str], ...] = (
        ("prompt", "prefix", prompt),
        ("suffix", "suffix", body.suffix or ""),
    )
    for name, kind, text in ends:
        if text and kind in kinds:
            raise RequestError(f"{name}: umbrella.segments has a {kind} too; send only one of them.", name)
        if text:
            yield Segment(kind, text)


def _single(prompt: object) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    items = cast("list[object]", prompt) if isinstance(prompt, list) else []
    ids = [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
    if items and len(ids) == len(items):
        return tuple(ids)
    if len(items) == 1 and isinstance(items[0], str | list):
        return _single(cast("object", items[0]))
    several = len(items) > 1 and all(isinstance(item, str | list) for item in items)
    wanted = "one prompt a request is supported" if several else "it must be a string or a list of token ids"
    raise RequestError(f"prompt: {wanted}.", "prompt")


@dataclass(frozen=True, slots=True)
class CompletionDialect:
    """Words answers as OpenAI does."""

    model: str
    stream: bool
    usage_event: bool = False
    """An event of its own for `usage`, with no choices, before the end."""
    endpoint: str = "/v1/completions"
    length_field: str = "max_tokens"
    farewell: bytes = b"data: [DONE]\n\n"
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def events(self, chunk: Chunk) -> Iterator[object]:
        """One event a chunk, and perhaps one for `usage`."""
        yield self._object([chunk])
        if chunk.over and self.usage_event:
            again = self._object([replace(chunk, logprobs=(), offsets=(), fates=())])
            yield {**again, "choices": [], "usage": _usage(chunk.counts)}

    def whole(self, texts: Sequence[Chunk]) -> object:
        """A `text_completion` object with a choice for each of `texts`."""
        return {**self._object(texts), "usage": _usage(texts[-1].counts)}

    def _object(self, texts: Sequence[Chunk]) -> dict[str, object]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [_choice(chunk) for chunk in texts],
            "umbrella": umbrella_of(texts[0], texts[1:]),
        }


def _choice(chunk: Chunk) -> dict[str, object]:
    reason = None if chunk.ending is None else "length" if chunk.ending.stop in _LIMITS else "stop"
    return {"index": chunk.index, "text": chunk.text, "logprobs": None, "finish_reason": reason}


def _usage(counts: TokenCounts) -> dict[str, object]:
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.generated,
        "total_tokens": counts.prompt + counts.generated,
        "prompt_tokens_details": {"cached_tokens": counts.reused},
    }
