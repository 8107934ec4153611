"""Generations on their way through the worker: what they carry, how they are cancelled and queued."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

from engine.alternatives import Answer
from engine.backend import BuiltPrompt
from engine.errors import UmbrellaError
from engine.protocol import Priority, SegmentFate, StopReason, Tier, Timings, TokenCounts
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
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()
    """For each, the most probable ids at its position and their natural log-probabilities, as many as the
    request's `top_logprobs`; () where none were asked for."""

    @property
    def over(self) -> bool:
        """Whether the job is: nothing follows."""
        return self.ending is not None and self.ending.last

    def after(self, before: Chunk) -> Chunk:
        """`before` and this chunk of the same text as one."""
        return replace(
            self,
            text=before.text + self.text,
            logprobs=before.logprobs + self.logprobs,
            offsets=before.offsets + self.offsets,
            tokens=before.tokens + self.tokens,
            tops=before.tops + self.tops,
            fates=before.fates + self.fates,
        )


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
        self.key = (RANKS[request.priority, request.tier], sequence)
        """Order in the queue. An interrupted job keeps its own, so it goes before later ones."""
        self.accepted_ms = self._booked_ms = now_ms()
        self.queue_ms = self.prefill_ms = self.decode_ms = 0.0
        self.progress: Progress | None = None
        self.over = False
        """Whether its last chunk or its error has been delivered."""
        self._lock = threading.Lock()
        self._layers = 0
        self._layers_at_cancel: int | None = None

    def __lt__(self, other: Job) -> bool:
        return self.key < other.key

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"#{self.key[1]}"

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

    def book(self, *, waited: bool = False) -> None:
        """Put the time since the last call down to the queue if it `waited`, else to the stage it is in."""
        now = now_ms()
        spent, self._booked_ms = now - self._booked_ms, now
        if waited:
            self.queue_ms += spent
        elif self.progress is None or self.progress.counts.target_passes == 0:
            self.prefill_ms += spent
        else:
            self.decode_ms += spent

    def news(self, progress: Progress) -> Chunk:
        """What of the text being written has not been delivered yet, with its ending if it is over."""
        answer, prompt, ending = progress.answers[0], progress.prompt, None
        if answer.stop is not None:
            last = len(progress.answers) == 1
            ending = Ending(answer.stop, answer.text.stop_string, prompt.truncated, last)
        tier, counts = self.request.tier, progress.counts
        if tier == "draft":
            counts = replace(counts, target_passes=0)  # They were the draft's.
        text, logprobs, offsets = answer.take()
        fates = () if progress.is_told else prompt.fates
        progress.is_told = True
        return Chunk(
            text, logprobs, counts, self.timings(), ending, answer.index, tier, offsets=offsets, fates=fates
        )

    def timings(self) -> Timings:
        """Time spent so far."""
        return Timings(self.queue_ms, self.prefill_ms, self.decode_ms, now_ms() - self.accepted_ms)


class JobQueue:
    """Waiting jobs, most urgent first, then in order of arrival, and those that have been begun.

    Safe to use from any thread. A job is always either waiting, begun or over, so that whoever asks
    whether the engine is idle never looks between two of these.
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self.begun: tuple[Job, ...] = ()
        """The running job last; each of the others is paused, and less urgent than the one behind it."""
        self.best_rank = IDLE_RANK
        """The most urgent waiting job's rank. Written under the lock, read without it at every layer."""

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> bool:
        """Add a job, or put one back that was begun. False, and not added, once the queue is closed."""
        with self._changed:
            if self._closed:
                return False
            self._forget(job)
            heapq.heappush(self._jobs, job)
            self._updated()
            return True

    def take(
        self, timeout_s: float | None = None, is_enough: Callable[[], bool] = lambda: False
    ) -> Job | None:
        """Wait for a job, which has then begun.

        None once the queue is closed, and where no job waits but the time is over or `is_enough`, which is
        asked again at every `wake`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs or is_enough(), timeout_s)
            return self._begin() if self._jobs else None

    def wake(self) -> None:
        """Have `take` look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self) -> bool:
        """Wait until `take` has a job to return. False once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs)
            return not self._closed

    def take_before(self, job: Job) -> Job | None:
        """A waiting job that is more urgent than `job`, which has then begun; None if there is none."""
        with self._changed:
            return self._begin() if self.best_rank < job.key[0] else None

    def done(self, job: Job) -> None:
        """A job that was begun is over, or waits again."""
        with self._changed:
            self._forget(job)

    def remove(self, job: Job) -> bool:
        """Take `job` out if it is waiting."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._jobs.remove(job)
            heapq.heapify(self._jobs)
            self._updated()
            return True

    def close(self) -> list[Job]:
        """Let `take` return None and `put` False from now on. Returns what was waiting."""
        with self._changed:
            self._closed = True
            left, self._jobs = self._jobs, []
            self._updated()
            return left

    @property
    def busy(self) -> bool:
        """Whether a job waits or has been begun."""
        with self._changed:
            return bool(self._jobs or self.begun)

    def _begin(self) -> Job:
        job = heapq.heappop(self._jobs)
        self.begun = (*self.begun, job)
        self._updated()
        return job

    def _forget(self, job: Job) -> None:
        self.begun = tuple(other for other in self.begun if other is not job)

    def _updated(self) -> None:
        self.best_rank = self._jobs[0].key[0] if self._jobs else IDLE_RANK
        self._changed.notify_all()
