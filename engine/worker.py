"""The one thread that owns the models: it loads them, then runs jobs by priority.

Owns what may be asked of it from other threads. Knows nothing of HTTP, nor of how a job is run; torch-free.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from typing import Generic

from engine.backend import Backend, Load, S, Speed
from engine.errors import EngineUnavailable, UmbrellaError
from engine.jobs import Cancelled, Deliver, Job, JobQueue
from engine.metrics import Metrics
from engine.protocol import HealthState
from engine.request import GenerationRequest
from engine.runner import Runner, end_cancelled

log = logging.getLogger(__name__)


class Worker(Generic[S]):
    """Runs jobs on a thread of its own. The public methods are safe from any thread."""

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
        self.speed = Speed()
        """What to expect of the models, once they are loaded."""
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
        """End `job` before its next layer, or at once if it waits. Harmless when it is over.

        One that is paused for a more urgent job ends when that one does.
        """
        if job.over or not job.cancel():
            return
        self._metrics.cancels.inc()
        if self._queue.remove(job):
            end_cancelled(job, self._metrics)

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
            end_cancelled(job, self._metrics)
        for job in self._queue.begun:
            job.cancel()
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
        runner = Runner(backend, self._slots, self._queue, self._metrics)
        while job := self._queue.take():
            runner.run(job)
            self._last_active = time.monotonic()
            self._queue.done(job)

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
        self.load_share, self.speed = 1.0, backend.speed
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
