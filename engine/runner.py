"""Runs jobs on loaded models, a more urgent one inside the one that it interrupts.

A job's text does not depend on how often it was interrupted: what it has emitted stays emitted, and
it goes on from there, because which token stands at a position depends on the seed and the position
alone. At a step's end a job may have to let an equal one have its turn: it then waits in its slot, as
a suspended generator. Belongs to the worker's thread; torch-free.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Generic

from engine.alternatives import Answer, Limits, alternatives
from engine.backend import Backend, S, Step
from engine.errors import EngineUnavailable, UmbrellaError, is_loss
from engine.job_queue import JobQueue
from engine.jobs import Cancelled, Chunk, Ending, Job, Preempted, Progress
from engine.metrics import Metrics
from engine.protocol import StopReason, Tier, TokenCounts
from engine.slots import SlotPool, draft_tier_slots

log = logging.getLogger(__name__)


class Runner(Generic[S]):
    """Runs what it is given, and whatever more urgent comes into `queue` meanwhile."""

    def __init__(
        self,
        backend: Backend[S],
        queue: JobQueue,
        metrics: Metrics,
        between_steps: Callable[[], object] = lambda: None,
    ) -> None:
        self.lost: UmbrellaError | None = None
        """What says that the device is gone, so that nothing more can be run."""
        self._backend = backend
        self._pools: dict[Tier, SlotPool[S]] = {
            "target": SlotPool(backend.slots, lambda: backend.new_slot("target")),
            "draft": SlotPool(draft_tier_slots(backend.slots), lambda: backend.new_slot("draft")),
        }
        self._queue = queue
        # One is left for what is more urgent.
        queue.room = {tier: max(1, pool.capacity - 1) for tier, pool in self._pools.items()}
        self._metrics = metrics
        self._between_steps = between_steps
        self._waiting: dict[Job, Generator[None]] = {}
        """Jobs that wait for their next turn between two steps, and keep their slots."""

    def run(self, job: Job) -> None:
        """Run `job` to its end, or put it back; whatever it raises ends it and nothing else."""
        for other in [other for other in self._waiting if other.over]:  # They were cancelled.
            self._unwind(other)
        job.book(waited=True)
        job.has_slot, job.turn_ms = False, 0.0
        steps = self._waiting.pop(job, None) or self._serve(job)
        try:
            for _ in steps:
                self._between_steps()
                if self._queue.is_turn_over(job):
                    job.has_slot = True
                    self._waiting[job] = steps
                    self._put_back(job)
                    return
        except Cancelled:
            end_cancelled(job, self._metrics)
        except Preempted:
            self._put_back(job)
        except UmbrellaError as error:
            if is_loss(error):
                self.lost = error
            job.end(error)
        except Exception as error:  # noqa: BLE001 - one request's failure is not the engine's
            log_without_message(error)
            name = type(error).__name__
            job.end(EngineUnavailable(f"The engine failed inside ({name}). Its log says where."))

    def close(self) -> None:
        """Let go of all slots."""
        while self._waiting:
            self._unwind(next(iter(self._waiting)))

    def _unwind(self, job: Job) -> None:
        """Take the slot of a job that waits for its turn."""
        steps = self._waiting.pop(job)
        job.has_slot = False
        job.book(waited=True)
        steps.close()

    def _has_slot_for(self, job: Job) -> bool:
        pool = self._pools[job.request.tier]
        return job in self._waiting or pool.available or self._least(job) is not None

    def _least(self, job: Job) -> Job | None:
        """Of the jobs that wait in slots that `job` could use, the least urgent."""
        others = [other for other in self._waiting if other.request.tier == job.request.tier]
        return max(others, key=lambda other: other.rank, default=None)

    def _serve(self, job: Job) -> Generator[None]:
        """Run `job` to its end, a step at a time. Raises Cancelled or Preempted where it is interrupted."""
        if job.cancelled:
            raise Cancelled
        request = job.request
        if job.progress is None:
            prompt = self._backend.encode(request)
            job.progress = Progress(prompt, deque([Answer(self._backend.text(request, prompt))]))
        progress, pool = job.progress, self._pools[request.tier]
        if not pool.available and (other := self._least(job)):
            self._unwind(other)
        # What the session's slot holds is the text that is typed along, neither what may follow it nor what
        # stands beside it; and whoever types need not wait for the slot, nor have it copied.
        ahead = request.priority == "prefetch" and pool.has_spare
        adapter = progress.prompt.adapter
        with pool.lend("" if ahead else request.session, progress.tokens, adapter) as slot:
            over = yield from self._write(job, progress, slot)
            while not over:
                spare = pool.lend("", progress.tokens, adapter) if pool.has_spare else nullcontext(slot)
                with spare as place:
                    over = yield from self._write(job, progress, place)

    def _write(self, job: Job, progress: Progress, slot: S) -> Generator[None, None, bool]:
        """Bring the text that `job` is at to its end, a step at a time. Returns whether the job is over."""
        request, answer, before = job.request, progress.answers[0], progress.counts
        begun_at = len(answer.tokens)
        steps = self._backend.generate(
            request if answer.index == 0 else replace(request, alternatives=1),
            progress.tokens,
            slot,
            answer.text,
            request.max_tokens - answer.size,
            lambda _layer: self._before_layer(job),
        )
        over = False
        try:
            for step in steps:
                self._book(job)
                progress.counts = _together(before, step.counts)
                answer.extend(step, begun_at)
                self._note_failures(job, progress, step)
                over = self._advance(job, progress, step.stop)
                if answer.stop is not None:
                    break
                yield
        finally:
            self._book(job)
            _close(steps)
        return over

    def _book(self, job: Job) -> None:
        self._queue.served(job, job.book())

    def _before_layer(self, job: Job) -> None:
        if self._queue.best_rank < job.rank and not job.cancelled:
            self._give_way(job)
        job.start_layer()
        self._metrics.layers_started.inc()

    def _give_way(self, job: Job) -> None:
        """Run what is more urgent than `job`, which stands between two layers and then goes on.

        Raises Preempted if there is no slot for that but those of paused jobs and the one `job` is in, and
        DeviceError if that has lost the device.
        """
        self._metrics.preemptions.inc()
        self._book(job)
        while not job.cancelled and (urgent := self._queue.take_before(job)):
            if not self._has_slot_for(urgent):
                self._put_back(urgent)
                raise Preempted
            self.run(urgent)
            self._queue.done(urgent)
            if self.lost is not None:
                raise self.lost
        job.book(waited=True)

    def _put_back(self, job: Job) -> None:
        """Let `job`, which was begun, wait again."""
        if not self._queue.put([job]):
            end_cancelled(job, self._metrics)

    def _note_failures(self, job: Job, progress: Progress, step: Step) -> None:
        for name in set(step.failed) - progress.failed:
            progress.failed.add(name)
            self._metrics.drafter_failures.labels(name).inc()
            log.warning("%s goes on without the drafter %s, which failed", job.name, name)

    def _advance(self, job: Job, progress: Progress, stop: StopReason | None) -> bool:
        """Deliver what a step has brought; `stop` if it was the text's last. True if the job is over."""
        answer = progress.answers[0]
        late = _past_deadline(job, answer)
        if stop is not None or late:
            answer.end(stop or StopReason.DEADLINE)
            if late or job.cancelled:
                progress.answers = deque([answer])
            elif answer.index == 0:
                progress.answers += self._alternatives(job, progress)
        while True:
            chunk = job.news(progress)
            if chunk.over:
                _end(job, chunk, self._metrics)
                return True
            job.deliver(chunk)
            if chunk.ending is None:
                return False
            progress.next_answer()

    def _alternatives(self, job: Job, progress: Progress) -> list[Answer]:
        request, prompt = job.request, progress.prompt
        limits = Limits(request.max_tokens, self._backend.max_length - len(prompt.tokens))
        wanted = request.alternatives - 1
        return alternatives(progress.answers[0], wanted, lambda: self._backend.text(request, prompt), limits)


def end_cancelled(job: Job, metrics: Metrics) -> None:
    """End a job that was cancelled: one that waits, or has been stopped between two layers."""
    if progress := job.progress:
        current = progress.answers[0]
        current.stop = StopReason.CANCELLED
        progress.answers = deque([current])
        chunk = job.news(progress)
    else:
        chunk = Chunk("", (), TokenCounts(), job.timings(), Ending(StopReason.CANCELLED))
    _end(job, chunk, metrics)


def _end(job: Job, last: Chunk, metrics: Metrics) -> None:
    metrics.layers_after_cancel.inc(job.layers_after_cancel)
    metrics.generation_ended(last.counts, last.timings)
    job.end(last)


def _past_deadline(job: Job, answer: Answer) -> bool:
    limit_ms = job.request.deadline_ms
    return limit_ms is not None and "\n" in answer.said and job.decode_ms > limit_ms


def _together(before: TokenCounts, now: TokenCounts) -> TokenCounts:
    """Counts over several runs of one job: `before` up to the last one's end, `now` since."""
    first = before.target_passes == 0
    return replace(
        now,
        prompt=now.prompt if first else before.prompt,
        reused=now.reused if first else before.reused,
        generated=before.generated + now.generated,
        drafted=before.drafted + now.drafted,
        accepted=before.accepted + now.accepted,
        target_passes=before.target_passes + now.target_passes,
    )


def _close(steps: Iterator[Step]) -> None:
    """Abandon a generator now rather than when it is collected."""
    close = getattr(steps, "close", None)
    if close is not None:
        close()


def log_without_message(error: Exception) -> None:
    """Log that a generation failed and where, but not with which words."""
    # An error's message may quote the prompt: its type and our own lines are all that is logged.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("a generation failed with %s:\n%s", type(error).__name__, where)
