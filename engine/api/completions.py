"""OpenAI's ``POST /v1/completions``. What it can ask for and we do not do is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from engine.api.choices import MAX_CHOICES, best, require_room, several
from engine.api.logprobs import completion_logprobs
from engine.api.openai import (
    MAX_TOP_LOGPROBS,
    Frame,
    OpenAiBody,
    finish_reason,
    generation,
)
from engine.api.respond import Texts
from engine.config import EngineConfig
from engine.errors import RequestError
from engine.executor import Executor
from engine.jobs import Chunk
from engine.protocol import Segment, SegmentKind
from engine.request import CodePrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from engine.schema import require_between

Given = str | tuple[int, ...]
"""A prompt as it was sent."""


@dataclass(frozen=True, slots=True)
class CompletionBody(OpenAiBody):
    """The body of ``POST /v1/completions``. Without `max_tokens`, the configuration's `generation_length`."""

    prompt: object
    """A string, a list of token ids, or a list of several of these."""
    suffix: str | None = None
    """With text after the cursor, or with segments of `umbrella`, the engine's template is used; without,
    the prompt is taken as it is."""
    best_of: int | None = None
    """Answers to each prompt of which the `n` with the highest mean log-probability are told."""
    echo: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        OpenAiBody.__post_init__(self)
        require_between("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
        require_between("best_of", self.best_of, 1, MAX_CHOICES)
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError("best_of must be at least n")
        if self.stream and self.tried > self.n:
            raise ValueError("best_of must equal n in a stream, which cannot take back what it has told")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not supported: a prompt's are not known; leave one out")
        if self.echo and (self.suffix or self.umbrella.segments):
            raise ValueError("echo needs a prompt taken as it is: leave out suffix and umbrella.segments")

    @property
    def tried(self) -> int:
        """Answers to each prompt."""
        return self.best_of or self.n


def to_requests(body: CompletionBody, config: EngineConfig, adapter: str = "") -> list[GenerationRequest]:
    """The generations that `body` asks for, those of a prompt one after the other. Raises RequestError."""
    prompts = given_prompts(body.prompt)
    count = len(prompts) * body.tried
    name = "prompt" if len(prompts) > 1 else "n" if body.n == body.tried else "best_of"
    require_room(count, name, body.umbrella, config)
    first = generation(body, _prompt(body, prompts[0]), config, adapter)
    first = replace(first, top_logprobs=body.logprobs or 0)
    requests = [replace(first, prompt=_prompt(body, given)) for given in prompts]
    return [each for request in requests for each in several(request, body.tried)]


def given_prompts(prompt: object) -> list[Given]:
    """The prompts that OpenAI's `prompt` holds. Raises RequestError."""
    if isinstance(prompt, str):
        return [prompt]
    items = cast("list[object]", prompt) if isinstance(prompt, list) else []
    if _are_ids(items):
        return [tuple(cast("list[int]", items))]
    if items and all(isinstance(item, str) or _are_ids(item) for item in items):
        several = cast("list[str | list[int]]", items)
        return [item if isinstance(item, str) else tuple(item) for item in several]
    wanted = "a string, a list of token ids, or a list of several of these"
    raise RequestError(f"prompt: it must be {wanted}.", "prompt")


def _are_ids(value: object) -> bool:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return bool(items) and all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _prompt(body: CompletionBody, given: Given) -> Prompt:
    ours = body.umbrella
    if not body.suffix and not ours.segments:
        return TextPrompt(given) if isinstance(given, str) else TokenPrompt(given)
    if not isinstance(given, str):
        name = "suffix" if body.suffix else "umbrella.segments"
        raise RequestError(f"{name} needs a prompt that is text; send it as a string.", name)
    # As in /infill: segments of `umbrella` come first and keep their indices.
    return CodePrompt((*ours.segments, *_ends(body, given)), ours.path, ours.language)


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


@dataclass(frozen=True, slots=True)
class CompletionDialect:
    """Words answers as OpenAI does."""

    body: CompletionBody
    executor: Executor
    frame: Frame
    endpoint: str = "/v1/completions"
    length_field: str = "max_tokens"
    farewell: bytes = b"data: [DONE]\n\n"

    @property
    def stream(self) -> bool:
        """Whether chunks are told as they come."""
        return self.body.stream

    def events(self, job: int, chunk: Chunk, /) -> Iterator[object]:
        """One event a chunk, and perhaps a last one for `usage`."""
        is_first, length = self.frame.tally.note(job, chunk)
        before = self._echoed(job) if is_first else ""
        choice = self._choice(job + chunk.index, before, chunk, length)
        yield from self.frame.events("text_completion", choice, chunk)

    def whole(self, jobs: Sequence[Texts], /) -> object:
        """A `text_completion` object with the choices of each prompt, one after the other."""
        self.frame.tally.note_all(jobs)
        kept = best(jobs, self.body.tried, self.body.n)
        told = [(job, chunk) for job in kept for chunk in jobs[job]]
        choices = [
            self._choice(index, self._echoed(job), chunk, len(chunk.text))
            for index, (job, chunk) in enumerate(told)
        ]
        return self.frame.whole("text_completion", choices, jobs, kept[0])

    def _choice(self, index: int, before: str, chunk: Chunk, length: int) -> dict[str, object]:
        """What `chunk` tells of a choice that has `length` characters with it, behind the text `before`."""
        words, body = self.executor.vocabulary, self.body
        logprobs = None
        if body.logprobs is not None and words is not None:
            logprobs = completion_logprobs(chunk, length, words, body.logprobs)
        choice: dict[str, object] = {
            "index": index,
            "text": before + chunk.text,
            "logprobs": logprobs,
            "finish_reason": finish_reason(chunk),
        }
        return {**choice, "token_ids": chunk.tokens} if body.return_token_ids else choice

    def _echoed(self, job: int) -> str:
        """The prompt of a job, where it is to be told."""
        if not self.body.echo:
            return ""
        given = given_prompts(self.body.prompt)[job // self.body.tried]
        if isinstance(given, str):
            return given
        words = self.executor.vocabulary
        return words.decode(given) if words is not None else ""
