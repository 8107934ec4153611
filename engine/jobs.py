"""Generations on their way through the worker: what they carry, how they are cancelled and queued."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.backend import BuiltPrompt, Text
from engine.errors import UmbrellaError
from engine.protocol import SegmentFate, StopReason, Timings, TokenCounts
from engine.request import GenerationRequest

RANKS = {"typing": 0, "chat": 1, "prefetch": 2}
IDLE_RANK = len(RANKS)


class Cancelled(Exception):
    """Raised between two layers: nobody waits for this generation any more."""


class Preempted(Exception):
    """Raised between two layers: something more urgent waits; this generation resumes later."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known once a generation is over."""

    stop: StopReason
    stop_string: str = ""
    fates: tuple[SegmentFate, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that follows what came before it. The last chunk of a job has an `ending`."""

    text: str
    logprobs: tuple[float, ...]
    counts: TokenCounts
    timings: Timings
    ending: Ending | None = None


Deliver = Callable[[Chunk | UmbrellaError], None]
"""Takes a job's chunks, the last of which has an ending; or the error that ended it. Must not block."""


def now_ms() -> float:
    """The monotonic clock, in milliseconds."""
    return time.monotonic() * 1000


@dataclass(slots=True)
class Progress:
    """How far a job has come. Touched by the worker's thread only."""

    prompt: BuiltPrompt
    text: Text
    emitted: list[int] = field(default_factory=list[int])
    counts: TokenCounts = field(default_factory=TokenCounts)
    first_step_ms: float | None = None
    line_complete: bool = False


class Job:
    """One generation on its way through the worker."""

    def __init__(self, request: GenerationRequest, deliver: Deliver, sequence: int) -> None:
        self.request = request
        self.deliver = deliver
        self.key = (RANKS[request.priority], sequence)
        """Order in the queue. An interrupted job keeps its own, so it goes before later ones."""
        self.accepted_ms = self.waiting_since_ms = now_ms()
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

    def account(self, since_ms: float) -> float:
        """Book the time since `since_ms` on the stage the job is in. Returns now."""
        now = now_ms()
        if self.progress is None or self.progress.first_step_ms is None:
            self.prefill_ms += now - since_ms
        else:
            self.decode_ms += now - since_ms
        return now

    def timings(self) -> Timings:
        """Time spent so far."""
        return Timings(self.queue_ms, self.prefill_ms, self.decode_ms, now_ms() - self.accepted_ms)


class JobQueue:
    """Waiting jobs, most urgent first, then in order of arrival, and the one being run.

    Safe to use from any thread. A job is always either waiting, running or over, so that whoever asks
    whether the engine is idle never looks between two of these.
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self.running: Job | None = None
        self.best_rank = IDLE_RANK
        """The most urgent waiting job's rank. Written under the lock, read without it at every layer."""

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> bool:
        """Add a job. False, and not added, once the queue is closed."""
        with self._changed:
            if self._closed:
                return False
            heapq.heappush(self._jobs, job)
            self._updated()
            return True

    def take(self) -> Job | None:
        """Wait for a job, which is then the running one. None once the queue is closed."""
        with self._changed:
            self.running = None
            self._changed.wait_for(lambda: self._closed or self._jobs)
            if self._closed:
                return None
            self.running = heapq.heappop(self._jobs)
            self._updated()
            return self.running

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
        """Whether a job waits or runs."""
        with self._changed:
            return bool(self._jobs) or self.running is not None

    def _updated(self) -> None:
        self.best_rank = self._jobs[0].key[0] if self._jobs else IDLE_RANK
        self._changed.notify_all()
