"""Generations on their way through the worker: what they carry, and how they are cancelled."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

from engine.alternatives import Answer
from engine.backend import BuiltPrompt
from engine.errors import UmbrellaError
from engine.protocol import Priority, SegmentFate, StopReason, Tier, Timings, TokenCounts, Tops
from engine.request import GenerationRequest

PRIORITIES: tuple[Priority, ...] = ("typing", "chat", "prefetch")
TIERS: tuple[Tier, ...] = ("draft", "target")
"""A draft's text takes less than a layer or two of a target that is slow: the target's can wait for it."""
RANKS = {kind: rank for rank, kind in enumerate(product(PRIORITIES, TIERS))}
IDLE_RANK = len(RANKS)


class Cancelled(Exception):
    """Raised between two layers: nobody waits for this generation any more."""


class Preempted(Exception):
    """Raised between two layers: something more urgent waits and needs the slot; this resumes later."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known once a text is over."""

    stop: StopReason
    stop_string: str = ""
    truncated: bool = False
    last: bool = True
    """False where alternatives follow."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that follows what came before it of alternative `index`, 0 being the main text.

    Texts follow one another, and the last chunk of each has an `ending`. Counts and timings are the job's.
    """

    text: str
    logprobs: tuple[float, ...]
    counts: TokenCounts
    timings: Timings
    ending: Ending | None = None
    index: int = 0
    tier: Tier = "target"
    offsets: tuple[int, ...] = ()
    """Where each of these tokens begins in the whole text."""
    fates: tuple[SegmentFate, ...] = ()
    """Of the request's segments; in the job's first chunk only."""
    tokens: tuple[int, ...] = ()
    """The ids of these tokens."""
    tops: Tops = ()
    """For each, as many as the request's `top_logprobs`, or as may come at all."""

    @property
    def over(self) -> bool:
        """Whether the job is: nothing follows."""
        return self.ending is not None and self.ending.last


Deliver = Callable[[Chunk | UmbrellaError], None]
"""Takes a job's chunks, the last of which is `over`; or the error that ended it. Must not block."""


def now_ms() -> float:
    """The monotonic clock, in milliseconds."""
    return time.monotonic() * 1000


@dataclass(slots=True)
class Progress:
    """How far a job has come. Touched by the worker's thread only."""

    prompt: BuiltPrompt
    answers: deque[Answer]
    """The text being written, then those still to be."""
    counts: TokenCounts = field(default_factory=TokenCounts)
    is_told: bool = False
    """Whether the first chunk has been delivered."""
    failed: set[str] = field(default_factory=set[str])
    """Drafters that it went on without."""

    @property
    def tokens(self) -> list[int]:
        """What the models have to continue: the prompt, and the text being written."""
        return [*self.prompt.tokens, *self.answers[0].tokens]

    def next_answer(self) -> None:
        """Turn from a text that is over to the next, some of whose tokens are there already."""
        self.answers.popleft()
        generated = self.counts.generated + self.answers[0].own_size
        self.counts = replace(self.counts, generated=generated)


class Job:
    """One generation on its way through the worker."""

    def __init__(self, request: GenerationRequest, deliver: Deliver, sequence: int) -> None:
        self.request = request
        self.deliver = deliver
        self.rank = RANKS[request.priority, request.tier]
        self.sequence = sequence
        """Order of arrival."""
        self.has_slot = False
        """Whether it waits between two steps, and keeps its slot. Written by the worker's thread only."""
        self.turn_ms = 0.0
        """Time since it was last begun, pauses left out."""
        self.accepted_ms = self._booked_ms = now_ms()
        self.queue_ms = self.prefill_ms = self.decode_ms = 0.0
        self.progress: Progress | None = None
        self.over = False
        """Whether its last chunk or its error has been delivered."""
        self._lock = threading.Lock()
        self._layers = 0
        self._layers_at_cancel: int | None = None

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"#{self.sequence}"

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` has been called."""
        return self._layers_at_cancel is not None

    @property
    def layers_after_cancel(self) -> int:
        """Layers begun since `cancel`, counted apart from what stops them."""
        with self._lock:
            return 0 if self._layers_at_cancel is None else self._layers - self._layers_at_cancel

    def cancel(self) -> bool:
        """No layer of this job starts after this returns. From any thread; True the first time."""
        with self._lock:
            if self._layers_at_cancel is not None:
                return False
            self._layers_at_cancel = self._layers
            return True

    def end(self, last: Chunk | UmbrellaError) -> None:
        """Deliver the last chunk, or the error that ends it."""
        self.over = True
        self.deliver(last)

    def start_layer(self) -> None:
        """Raises Cancelled if the job is. Under the same lock as `cancel`, so neither slips past."""
        with self._lock:
            if self._layers_at_cancel is not None:
                raise Cancelled
            self._layers += 1

    def book(self, *, waited: bool = False) -> float:
        """Put the time since the last call down to the queue if it `waited`, else to the stage it is in.

        Returns that time [ms].
        """
        now = now_ms()
        spent, self._booked_ms = now - self._booked_ms, now
        if waited:
            self.queue_ms += spent
        elif self.progress is None or self.progress.counts.target_passes == 0:
            self.prefill_ms += spent
        else:
            self.decode_ms += spent
        return spent

    def news(self, progress: Progress) -> Chunk:
        """What of the text being written has not been delivered yet, with its ending if it is over."""
        answer, prompt, ending = progress.answers[0], progress.prompt, None
        if answer.stop is not None:
            last = len(progress.answers) == 1
            ending = Ending(answer.stop, answer.text.stop_string, prompt.truncated, last)
        tier, counts = self.request.tier, progress.counts
        if tier == "draft":
            counts = replace(counts, target_passes=0)  # They were the draft's.
        said = answer.take()
        fates = () if progress.is_told else prompt.fates
        progress.is_told = True
        return Chunk(
            said.text,
            said.logprobs,
            counts,
            self.timings(),
            ending,
            answer.index,
            tier,
            offsets=said.offsets,
            fates=fates,
            tokens=said.tokens,
            tops=said.tops,
        )

    def timings(self) -> Timings:
        """Time spent so far."""
        return Timings(self.queue_ms, self.prefill_ms, self.decode_ms, now_ms() - self.accepted_ms)
