"""Which job is next: the most urgent, and among equals each client in its turn. Knows nothing of models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from engine.jobs import IDLE_RANK, TIERS, Job
from engine.protocol import Tier

QUANTUM_MS = 1000.0
"""How long a job is served before an equal one of another client may have its turn."""

Account = tuple[int, str]
"""A rank and a client: nobody pays with the time of urgent jobs for what may wait."""


def _account(job: Job) -> Account:
    return job.rank, job.request.client


def _slots_kept(waiting: Iterable[Job], job: Job) -> int:
    """Slots for `job`'s tier that those `waiting` keep which are at least as urgent."""
    return sum(
        other.has_slot and other.rank <= job.rank and other.request.tier == job.request.tier
        for other in waiting
    )


class JobQueue:
    """Waiting jobs and those that have been begun. Safe to use from any thread.

    The most urgent job is next; among equals, one of the client that was served least; of a client's jobs,
    the oldest. A client's served time starts at that of the least served client with equal jobs when its own
    comes, or at what it was before if that is more: who comes late is owed nothing, and who asks for one
    thing at a time gains nothing. (Start-time fair queueing, Goyal et al. 1996, by time, not by known sizes.)

    A turn lasts at least `QUANTUM_MS`, if the job does. Whoever waits between two turns keeps a slot, so at
    most `room` jobs that are equally urgent have been begun: with no room for another, turns go round among
    those, and a client beyond them waits until one is over.

    A job is always either waiting, begun or over, so that whoever asks whether the engine is idle never looks
    between two of these.
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._served: dict[Account, float] = {}
        """Milliseconds, by every client that has a job, and others that were served more than one such."""
        self._changed = threading.Condition()
        self._closed = False
        self.begun: tuple[Job, ...] = ()
        """The running job last; each of the others is paused, and less urgent than the one behind it."""
        self.best_rank = IDLE_RANK
        """The most urgent waiting job's rank. Written under the lock, read without it at every layer."""
        self.room: Mapping[Tier, int] = dict.fromkeys(TIERS, 1)
        """Jobs of one rank that may keep slots at a time, at least 1, by tier. Set by who has the slots."""

    def __len__(self) -> int:
        return len(self._jobs)

    def ahead_of(self, rank: int) -> int:
        """How many jobs wait that are at least as urgent as `rank`."""
        with self._changed:
            return sum(job.rank <= rank for job in self._jobs)

    def put(self, jobs: Sequence[Job]) -> bool:
        """Add jobs, or put back what was begun. False, and nothing added, once the queue is closed."""
        with self._changed:
            if self._closed:
                return False
            for job in jobs:
                self._open_account(job)
                self._jobs.append(job)
                self._leave(job)
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
        """Have `take` and `wait` look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, is_enough: Callable[[], bool] = lambda: False) -> bool:
        """Wait until `take` has a job to return, or `is_enough`. False once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs or is_enough())
            return not self._closed

    def take_before(self, job: Job) -> Job | None:
        """A waiting job that is more urgent than `job`, which has then begun; None if there is none."""
        with self._changed:
            return self._begin() if self.best_rank < job.rank else None

    def served(self, job: Job, spent_ms: float) -> None:
        """Note that `job`, which has begun, has had so much more of the models' time."""
        job.turn_ms += spent_ms
        with self._changed:
            if _account(job) in self._served:
                self._served[_account(job)] += spent_ms

    def is_turn_over(self, job: Job) -> bool:
        """Whether `job`, which stands between two steps, should let another client's have a turn."""
        if job.turn_ms < QUANTUM_MS:
            return False
        with self._changed:
            begun = sum(other.request.tier == job.request.tier for other in self.begun)
            has_room = begun + _slots_kept(self._jobs, job) < self.room[job.request.tier]
            return any(
                other.rank == job.rank
                and self._served[_account(other)] < self._served[_account(job)]
                and (other.has_slot or has_room)
                for other in self._jobs
            )

    def done(self, job: Job) -> None:
        """A job that was begun is over, or waits again."""
        with self._changed:
            self._leave(job)
            self._close_accounts(job.rank)

    def remove(self, job: Job) -> bool:
        """Take `job` out if it is waiting."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._jobs.remove(job)
            self._close_accounts(job.rank)
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
        """The next job, of those that have a slot or may have one. There is always one such."""
        keeping = [job for job in self._jobs if job.has_slot]
        may = [
            job
            for job in self._jobs
            if job.has_slot or _slots_kept(keeping, job) < self.room[job.request.tier]
        ]
        job = min(may, key=lambda job: (job.rank, self._served[_account(job)], job.sequence))
        self._jobs.remove(job)
        self.begun = (*self.begun, job)
        self._updated()
        return job

    def _leave(self, job: Job) -> None:
        self.begun = tuple(other for other in self.begun if other is not job)

    def _open_account(self, job: Job) -> None:
        account, active = _account(job), self._active(job.rank)
        if account not in active:
            least = min((self._served[other] for other in active), default=0.0)
            self._served[account] = max(self._served.get(account, 0.0), least)

    def _close_accounts(self, rank: int) -> None:
        """Forget clients without a job that are not ahead of all others."""
        active = self._active(rank)
        least = min((self._served[account] for account in active), default=float("inf"))
        self._served = {
            account: served
            for account, served in self._served.items()
            if account[0] != rank or account in active or served > least
        }

    def _active(self, rank: int) -> set[Account]:
        return {_account(job) for job in (*self._jobs, *self.begun) if job.rank == rank}

    def _updated(self) -> None:
        self.best_rank = min((job.rank for job in self._jobs), default=IDLE_RANK)
        self._changed.notify_all()
