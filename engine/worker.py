"""The one thread that owns the models: it loads them, then runs jobs by priority.

A job's text does not depend on how often it was interrupted: what it has emitted stays emitted, and
it goes on from there, because which token stands at a position depends on the seed and the position
alone. Knows nothing of HTTP, and of a model only what `Backend` says; torch-free.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Generic

from engine.backend import Backend, Load, S, Step
from engine.errors import EngineUnavailable, UmbrellaError
from engine.jobs import Cancelled, Chunk, Deliver, Ending, Job, JobQueue, Preempted, Progress, now_ms
from engine.metrics import Metrics
from engine.protocol import HealthState, StopReason, TokenCounts
from engine.request import GenerationRequest
from engine.slots import SlotPool

log = logging.getLogger(__name__)


class Worker(Generic[S]):
    """Runs jobs on a thread of its own, one at a time. The public methods are safe from any thread."""

    def __init__(self, load: Load[S], metrics: Metrics, *, slots: int, max_queue: int) -> None:
        self._load = load
        self._metrics = metrics
        self._slots = slots
        self._max_queue = max_queue
        self._queue = JobQueue()
        self._sequence = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbrella-worker", daemon=True)
        self._last_active = time.monotonic()
        self.state: HealthState = "starting"
        self.load_share = 0.0
        """0 to 1: how much is loaded."""
        self.failure = ""
        """Why loading failed, and what to do about it."""
        metrics.watch_queue(self._queue.__len__)

    def start(self) -> None:
        """Begin to load, then to run jobs."""
        self._thread.start()

    def submit(self, request: GenerationRequest, deliver: Deliver) -> Job:
        """Queue a job; `deliver` is called on the worker's thread. Raises EngineUnavailable if refused."""
        if self.state == "draining":
            raise EngineUnavailable("The engine is shutting down. Send the request again in a second.")
        if len(self._queue) >= self._max_queue:
            raise EngineUnavailable(
                f"{self._max_queue} requests are waiting already. Cancel some, or raise max_queue."
            )
        job = Job(request, deliver, next(self._sequence))
        self._last_active = time.monotonic()
        if not self._queue.put(job):
            raise EngineUnavailable(self.failure or "The engine has stopped. Send the request again.")
        return job

    def cancel(self, job: Job) -> None:
        """End `job` before its next layer, or at once if it waits. Harmless when it is over."""
        if job.over or not job.cancel():
            return
        self._metrics.cancels.inc()
        if self._queue.remove(job):
            self._finish(job, StopReason.CANCELLED)

    def drain(self) -> None:
        """Finish what was accepted, accept nothing more."""
        if self.state != "failed":
            self.state = "draining"

    def stop(self, timeout_s: float) -> bool:
        """Cancel everything and end the thread. False if it is still busy after `timeout_s`."""
        self.drain()
        self._stopping.set()
        for job in self._queue.close():
            job.cancel()
            self._finish(job, StopReason.CANCELLED)
        if running := self._queue.running:
            running.cancel()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits, or the models are being loaded."""
        return self._queue.busy or self.state in ("starting", "loading")

    @property
    def idle_s(self) -> float:
        """Seconds since a job was last accepted or ended; 0 while busy."""
        return 0.0 if self.busy else time.monotonic() - self._last_active

    def _run(self) -> None:
        backend = self._loaded()
        if backend is None:
            return
        pool = SlotPool(self._slots, backend.new_slot)
        while job := self._queue.take():
            self._guarded(job, backend, pool)
            self._last_active = time.monotonic()

    def _loaded(self) -> Backend[S] | None:
        if self.state == "starting":
            self.state = "loading"
        try:
            backend = self._load(self._progressed)
        except Cancelled:
            return None
        except UmbrellaError as error:
            self._fail(str(error))
            return None
        except Exception as error:
            log.exception("loading failed")
            self._fail(f"Loading failed: {error} ({type(error).__name__}). The engine's log has the details.")
            return None
        self.load_share = 1.0
        self._last_active = time.monotonic()
        if self.state == "loading":
            self.state = "ready"
        return backend

    def _progressed(self, share: float) -> None:
        if self._stopping.is_set():
            raise Cancelled
        self.load_share = share

    def _fail(self, message: str) -> None:
        log.error("the engine cannot serve: %s", message)
        # Where the message says what to do, this says what to do after it.
        self.failure = (
            f"{message.rstrip('.')}. Then run `umbrella-engine stop`; the next request starts anew."
        )
        self._last_active = time.monotonic()
        self.state = "failed"
        for job in self._queue.close():
            job.end(EngineUnavailable(self.failure))

    def _guarded(self, job: Job, backend: Backend[S], pool: SlotPool[S]) -> None:
        """Run `job` to its end or its interruption; whatever it raises ends it and nothing else."""
        try:
            self._serve(job, backend, pool)
        except Cancelled:
            self._finish(job, StopReason.CANCELLED)
        except Preempted:
            self._metrics.preemptions.inc()
            job.waiting_since_ms = now_ms()
            if not self._queue.put(job):
                self._finish(job, StopReason.CANCELLED)
        except UmbrellaError as error:
            job.end(error)
        except Exception as error:  # noqa: BLE001 - one request's failure is not the engine's
            _log_without_message(error)
            name = type(error).__name__
            job.end(EngineUnavailable(f"The engine failed inside ({name}). Its log says where."))

    def _serve(self, job: Job, backend: Backend[S], pool: SlotPool[S]) -> None:
        """Run `job` to its end. Raises Cancelled or Preempted where it is interrupted."""
        since_ms = now_ms()
        job.queue_ms += since_ms - job.waiting_since_ms
        request = job.request
        if job.cancelled:
            raise Cancelled
        if job.progress is None:
            built = backend.encode(request)
            job.progress = Progress(built, backend.text(request, built))
        progress, before = job.progress, job.progress.counts
        tokens = [*progress.prompt.tokens, *progress.emitted]
        steps = backend.generate(
            request,
            tokens,
            pool.take(request.session, tokens),
            progress.text,
            request.max_tokens - len(progress.emitted) + progress.text.rewritten,
            lambda _layer: self._before_layer(job),
        )
        try:
            for step in steps:
                progress.counts = _together(before, step.counts)
                since_ms = job.account(since_ms)
                if self._advance(job, progress, step):
                    return
        finally:
            job.account(since_ms)
            _close(steps)

    def _before_layer(self, job: Job) -> None:
        if self._queue.best_rank < job.key[0] and not job.cancelled:
            raise Preempted
        job.start_layer()
        self._metrics.layers_started.inc()

    def _advance(self, job: Job, progress: Progress, step: Step) -> bool:
        """Take in one step and deliver its text. True if the job is over."""
        if progress.first_step_ms is None:
            progress.first_step_ms = now_ms()
        progress.emitted += step.tokens
        text = progress.text.take()
        progress.line_complete |= "\n" in text
        stop = step.stop
        if stop is None and _past_deadline(job.request, progress, progress.first_step_ms):
            stop = StopReason.DEADLINE
        if stop is not None:
            self._finish(job, stop, text + progress.text.finish(), step.logprobs)
            return True
        job.deliver(Chunk(text, step.logprobs, progress.counts, job.timings()))
        return False

    def _finish(self, job: Job, stop: StopReason, text: str = "", logprobs: tuple[float, ...] = ()) -> None:
        counts, timings, ending = TokenCounts(), job.timings(), Ending(stop)
        if progress := job.progress:
            prompt, counts = progress.prompt, progress.counts
            ending = Ending(stop, progress.text.stop_string, prompt.fates, prompt.truncated)
        self._metrics.layers_after_cancel.inc(job.layers_after_cancel)
        self._metrics.generation_ended(counts, timings)
        job.end(Chunk(text, logprobs, counts, timings, ending))


def _past_deadline(request: GenerationRequest, progress: Progress, first_step_ms: float) -> bool:
    limit_ms = request.deadline_ms
    return limit_ms is not None and progress.line_complete and now_ms() - first_step_ms > limit_ms


def _together(before: TokenCounts, now: TokenCounts) -> TokenCounts:
    """Counts over several runs of one job: `before` up to its interruption, `now` since."""
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


def _log_without_message(error: Exception) -> None:
    # An error's message may quote the prompt: its type and our own lines are all that is logged.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("a generation failed with %s:\n%s", type(error).__name__, where)
