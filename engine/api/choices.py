"""Several answers in one response: how they are asked for, and which of them are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from engine.api.respond import Texts
from engine.config import EngineConfig
from engine.errors import RequestError
from engine.protocol import UmbrellaRequest
from engine.request import GenerationRequest

MAX_CHOICES = 128
SEEDS = 1 << 63


def several(request: GenerationRequest, count: int) -> Iterator[GenerationRequest]:
    """`request` with `count` seeds, one after the other."""
    return (replace(request, seed=(request.seed + number) % SEEDS) for number in range(count))


def require_room(answers: int, name: str, ours: UmbrellaRequest, config: EngineConfig) -> None:
    """Raise RequestError if one response cannot hold so many `answers`, for which the field `name` asks."""
    if answers > config.max_queue:
        raise RequestError(
            f"{name}: {answers} answers are asked for at once, and {config.max_queue} may wait. Send several "
            "requests, or raise max_queue.",
            name,
        )
    if answers > 1 and ours.n > 1:
        raise RequestError("umbrella.n: alternatives are for a single answer; leave it out.", "umbrella.n")


def best(jobs: Sequence[Texts], tried: int, kept: int) -> list[int]:
    """Of every `tried` answers the numbers of the `kept` that are the most probable a token, best first."""

    def mean(job: int) -> float:
        logprobs = jobs[job][0].logprobs
        return sum(logprobs) / max(1, len(logprobs))

    prompts = (range(start, start + tried) for start in range(0, len(jobs), tried))
    if kept == tried:
        return list(range(len(jobs)))
    return [job for prompt in prompts for job in sorted(prompt, key=mean, reverse=True)[:kept]]
