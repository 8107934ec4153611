"""What OpenAI's ``/v1/completions`` and ``/v1/chat/completions`` have in common: fields, usage, the frame."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from engine.api.body import as_strings, chosen_seed, client_of, require_stops, served_tier, token_biases
from engine.api.choices import MAX_CHOICES, SEEDS
from engine.api.respond import Texts, added_up, umbrella_of, umbrella_of_all
from engine.config import EngineConfig
from engine.jobs import Chunk
from engine.protocol import StopReason, TokenCounts, UmbrellaRequest
from engine.request import GenerationRequest, Prompt
from engine.schema import require_between

MAX_TOP_LOGPROBS = 20
_LIMITS = (StopReason.LENGTH, StopReason.DEADLINE)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """OpenAI's `stream_options`."""

    include_usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiBody:
    """The fields that both bodies have. None leaves a choice to the engine's configuration."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    """Choice i of a prompt has the seed + i, so that choices differ and can be had again."""
    stop: str | tuple[str, ...] | None = None
    stream: bool = False
    stream_options: StreamOptions = field(default_factory=StreamOptions)
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: object = None
    """OpenAI's object or llama-server's list; see `token_biases`."""
    user: str = ""
    """Has one share among equally urgent requests, however many it sends; see `client_of`."""
    top_k: int | None = None
    """This and the following are vLLM's."""
    min_p: float = 0.0
    repetition_penalty: float | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False
    """Whether choices have the ids of their tokens as `token_ids`."""
    umbrella: UmbrellaRequest = field(default_factory=UmbrellaRequest)

    def __post_init__(self) -> None:
        require_between("max_tokens", self.max_tokens, 1, 1 << 20)
        require_between("temperature", self.temperature, 0, 100)
        require_between("top_p", self.top_p, 0, 1)
        require_between("seed", self.seed, -1, SEEDS - 1)
        require_between("n", self.n, 1, MAX_CHOICES)
        require_between("presence_penalty", self.presence_penalty, -2, 2)
        require_between("frequency_penalty", self.frequency_penalty, -2, 2)
        require_between("top_k", self.top_k, -1, 1 << 24)
        require_between("min_p", self.min_p, 0, 1)
        require_between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        require_stops(self.stop)
        token_biases(self.logit_bias)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with an event for `usage`."""
        return self.stream and self.stream_options.include_usage


def generation(body: OpenAiBody, prompt: Prompt, config: EngineConfig, adapter: str) -> GenerationRequest:
    """The generation that `body` asks for, but for its log-probabilities. Raises RequestError."""
    ours = body.umbrella
    return GenerationRequest(
        prompt=prompt,
        max_tokens=body.max_tokens or config.generation_length,
        stop=replace(ours.stop, strings=(*ours.stop.strings, *as_strings(body.stop))),
        temperature=config.temperature if body.temperature is None else body.temperature,
        top_k=max(0, config.topk if body.top_k is None else body.top_k),
        top_p=config.topp if body.top_p is None else body.top_p,
        min_p=body.min_p,
        repetition_penalty=(
            config.repetition_penalty if body.repetition_penalty is None else body.repetition_penalty
        ),
        seed=chosen_seed(body.seed),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=token_biases(body.logit_bias),
        session=ours.session,
        workspace=ours.workspace,
        priority=ours.priority or "chat",
        tier=served_tier(ours, config),
        alternatives=ours.n,
        speculative=ours.speculative,
        ignore_end=body.ignore_eos,
        adapter=adapter,
        client=client_of(body.user, ours),
    )


def finish_reason(chunk: Chunk) -> str | None:
    """OpenAI's word for why a text is over, None where it is not."""
    return None if chunk.ending is None else "length" if chunk.ending.stop in _LIMITS else "stop"


@dataclass(slots=True)
class Tally:
    """What has been told of one response. `per_prompt`: how many of its `jobs`, in order, share a prompt."""

    jobs: int
    per_prompt: int = 1
    lengths: dict[int, int] = field(default_factory=dict[int, int])
    """Characters that have been told of each choice."""
    counts: dict[int, TokenCounts] = field(default_factory=dict[int, TokenCounts])
    over: set[int] = field(default_factory=set[int])

    def note(self, job: int, chunk: Chunk) -> tuple[bool, int]:
        """Take in the newest chunk of a job: whether it is the first of its choice, and how many characters
        the choice has with it.
        """
        self.counts[job] = chunk.counts
        if chunk.over:
            self.over.add(job)
        choice = job + chunk.index
        is_first = choice not in self.lengths
        self.lengths[choice] = self.lengths.get(choice, 0) + len(chunk.text)
        return is_first, self.lengths[choice]

    def note_all(self, jobs: Sequence[Texts]) -> None:
        """Take in whole answers."""
        for job, texts in enumerate(jobs):
            self.note(job, texts[-1])

    @property
    def is_complete(self) -> bool:
        """Whether nothing more comes."""
        return len(self.over) == self.jobs

    def last_event(self, chunk: Chunk) -> dict[str, object]:
        """What the event behind the last one of all choices says, which `chunk` is of."""
        counts = added_up([*self.counts.values()])
        bare = replace(chunk, logprobs=(), offsets=(), fates=(), counts=counts)
        return {"usage": self.usage(), "umbrella": umbrella_of(bare)}

    def usage(self) -> dict[str, object]:
        """OpenAI's `usage`: a prompt counts once, whatever the number of its choices."""
        first = [self.counts[job] for job in range(0, self.jobs, self.per_prompt) if job in self.counts]
        prompt = sum(counts.prompt for counts in first)
        generated = sum(counts.generated for counts in self.counts.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": sum(counts.reused for counts in first)},
        }


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the choices in every object of one response."""

    id: str
    model: str
    tally: Tally
    wants_usage: bool
    """Whether a stream ends with an event for `usage`, of which the others then say null."""
    created: int = field(default_factory=lambda: int(time.time()))

    @staticmethod
    def of(body: OpenAiBody, prefix: str, model: str, tally: Tally) -> Frame:
        """For a new response, whose id begins with `prefix`."""
        return Frame(f"{prefix}-{secrets.token_hex(12)}", model, tally, body.wants_usage)

    def events(self, kind: str, choice: dict[str, object], chunk: Chunk) -> Iterator[object]:
        """The event that tells `choice` of `chunk`, which has been noted, and perhaps a last one."""
        event = self._object(kind, [choice])
        if self.wants_usage:
            event["usage"] = None
        yield {**event, "umbrella": umbrella_of(chunk)}
        if self.tally.is_complete and self.wants_usage:
            yield {**self._object(kind, []), **self.tally.last_event(chunk)}

    def whole(self, kind: str, choices: list[dict[str, object]], jobs: Sequence[Texts], main: int) -> object:
        """The answer that tells `choices` of `jobs`, which have been noted; number `main` is told first."""
        ours = {"usage": self.tally.usage(), "umbrella": umbrella_of_all(jobs, main)}
        return {**self._object(kind, choices), **ours}

    def _object(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
