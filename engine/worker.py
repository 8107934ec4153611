"""The one thread that owns the models: it loads them, runs jobs by priority, and gives them back.

Owns what may be asked of it from other threads. Knows nothing of HTTP, nor of how a job is run; torch-free.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic

from engine.backend import Backend, Load, S, Speed, Vocabulary
from engine.config_tables import AdapterName
from engine.errors import EngineBusy, EngineUnavailable, UmbrellaError, UnknownModel, is_loss
from engine.executor import Ticket
from engine.job_queue import JobQueue
from engine.jobs import Cancelled, Deliver, Job
from engine.memory import give_back
from engine.metrics import Metrics
from engine.protocol import HealthState
from engine.request import GenerationRequest
from engine.runner import Runner, end_cancelled

log = logging.getLogger(__name__)


Act = Callable[[Backend[S] | None], None]
"""Something to be done with the models by the thread that owns them; None where they cannot be had."""


class _Unwanted(Exception):
    """Raised while loading: the models are to be given back, and nobody waits for them."""


class Worker(Generic[S]):
    """Runs jobs on a thread of its own. The public methods are safe from any thread.

    `unload_s` is the seconds without a job after which the models are given back; 0: never. `adapters` are
    loaded with the models, and so are those that are added later.
    """

    def __init__(
        self,
        load: Load[S],
        metrics: Metrics,
        *,
        max_queue: int,
        unload_s: float = 0.0,
        adapters: Sequence[AdapterName] = (),
    ) -> None:
        self._load = load
        self._metrics = metrics
        self._max_queue = max_queue
        self._unload_s = unload_s or None
        self._at_failure: Callable[[], None] = lambda: None
        self._queue = JobQueue()
        self._sequence = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbrella-worker", daemon=True)
        self._last_active = time.monotonic()
        self._lock = threading.Lock()
        """Guards the state, whom to tell of the next one, what is to be done between steps, admission, and
        which adapters there are.
        """
        self._when_unloaded: list[Callable[[], None]] = []
        self._acts: deque[Act[S]] = deque()
        self.state: HealthState = "starting"
        self.load_share = 0.0
        """0 to 1: how much is loaded."""
        self.message = ""
        """As `engine.protocol.Health` has it."""
        self.is_lost = False
        """Whether it has failed because the device is gone, so that only another process can go on."""
        self.speed = Speed()
        """What to expect of the models, once they have been loaded."""
        self.vocabulary: Vocabulary | None = None
        """The target's tokens, once it has been loaded: they stay when it is given back."""
        self.adapters: Mapping[str, str] = {adapter.name: adapter.path for adapter in adapters}
        """As `engine.executor.Executor` has it. Replaced, never changed."""
        metrics.watch_queue(self._queue.__len__)

    def start(self, at_failure: Callable[[], None] = lambda: None) -> None:
        """Begin to load, then to run jobs.

        `at_failure` is called on the worker's thread when `state` becomes failed, which it then stays.
        """
        self._at_failure = at_failure
        self._thread.start()

    def submit(self, request: GenerationRequest, deliver: Deliver) -> Job:
        """Queue a job; `deliver` is called on the worker's thread. Raises EngineUnavailable if refused."""
        (job,) = self.submit_all([(request, deliver)])
        return job

    def submit_all(self, asked: Sequence[tuple[GenerationRequest, Deliver]]) -> Sequence[Job]:
        """Queue a job for each, or none, as `submit` does."""
        with self._lock:
            if self.state == "draining":
                raise EngineBusy("The engine is shutting down. Send the request again in a second.")
            jobs = [Job(request, deliver, next(self._sequence)) for request, deliver in asked]
            # Whoever types is not kept out by chats that wait.
            waiting = self._queue.ahead_of(max((job.rank for job in jobs), default=0))
            if waiting + len(jobs) > self._max_queue:
                raise EngineBusy(
                    f"{waiting} requests are waiting already, and {self._max_queue} may. Send fewer at a "
                    "time, cancel some, or raise max_queue."
                )
            self._last_active = time.monotonic()
            if not self._queue.put(jobs):
                failed = self.state == "failed"
                raise EngineUnavailable(
                    self.message if failed else "The engine has stopped. Send the request again."
                )
        return jobs

    def cancel(self, ticket: Ticket) -> None:
        """End a job before its next layer, or at once if it waits. Harmless when it is over.

        One that is paused for a more urgent job ends when that one does.
        """
        job = ticket
        assert isinstance(job, Job), "a ticket of another executor's"
        if job.over or not job.cancel():
            return
        self._metrics.cancels.inc()
        if self._queue.remove(job):
            end_cancelled(job, self._metrics)

    def unload(self, then: Callable[[], None]) -> None:
        """Give the models' memory back once no job runs or waits, and call `then`: at once where it is free.

        Loading that nobody waits for is given up. The next job has the models loaded again.
        """
        with self._lock:
            has_models = self.state in ("starting", "loading", "ready")
            if has_models:
                self._when_unloaded.append(then)
        if has_models:
            self._queue.wake()
        else:
            then()

    def between_steps(self, act: Act[S]) -> None:
        """Have `act(backend)` called once, on the worker's thread.

        That is at the end of a step of the running job, or at once where none runs; models are loaded first
        if they are not. Where the engine has failed or ends, `act(None)` is called, on any thread. `act` must
        not raise. Jobs that have been begun go on afterwards with what they have already.
        """
        with self._lock:
            can = not self._stopping.is_set() and self.state != "failed"
            if can:
                self._acts.append(act)
        if can:
            self._queue.wake()
        else:
            act(None)

    def load_adapter(self, name: str, path: str, then: Callable[[UmbrellaError | None], None]) -> None:
        """Load a LoRA adapter between two steps, and call `then` with what was wrong with it.

        Jobs that have been begun go on with what they began with.
        """

        def act(backend: Backend[S] | None) -> None:
            if backend is None:
                then(EngineUnavailable(self.message or "The engine has stopped. Send the request again."))
                return
            try:
                backend.load_adapter(name, path)
            except UmbrellaError as error:
                then(error)
                return
            except Exception as error:
                log.exception("an adapter could not be read")
                then(EngineUnavailable(f"Reading the adapter failed ({type(error).__name__}). See the log."))
                return
            with self._lock:
                self.adapters = {**self.adapters, name: path}
            log.info("the adapter %r is loaded", name)
            then(None)

        self.between_steps(act)

    def drop_adapter(self, name: str, then: Callable[[UmbrellaError | None], None]) -> None:
        """Forget an adapter, and call `then` with what was wrong. Jobs that wait for it end as unknown."""

        def act(backend: Backend[S] | None) -> None:
            if backend is not None:
                backend.drop_adapter(name)
            then(None)

        with self._lock:
            known = name in self.adapters
            self.adapters = {other: path for other, path in self.adapters.items() if other != name}
            has_models = self.state not in ("unloaded", "failed")
        if not known:
            then(
                UnknownModel(
                    f"lora_name: there is no adapter {name!r}. GET /v1/models lists those there are.",
                    "lora_name",
                )
            )
        elif has_models:
            self.between_steps(act)
        else:
            then(None)

    def drain(self) -> None:
        """Finish what was accepted, accept nothing more."""
        with self._lock:
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
        self._act(None)
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits, or the models are being loaded."""
        return self._queue.busy or bool(self._acts) or self.state in ("starting", "loading")

    @property
    def idle_s(self) -> float:
        """Seconds since a job was last accepted or ended; 0 while busy."""
        return 0.0 if self.busy else time.monotonic() - self._last_active

    def _run(self) -> None:
        while True:
            self._load_and_serve()
            if not (self._stopping.is_set() or self.is_lost):
                give_back()  # Only now does nothing refer to the models any more.
                log.info("the models' memory is free")
            self.load_share = 0.0
            self._enter("unloaded")
            with self._lock:
                tell, self._when_unloaded = self._when_unloaded, []
            for told in tell:
                told()
            if not self._queue.wait(lambda: bool(self._acts)):
                return

    def _load_and_serve(self) -> None:
        """Load the models, and run jobs until they are to be given back."""
        backend = self._loaded()
        if backend is None:
            return
        try:
            self._serve(backend)
        finally:
            try:
                backend.close()
            except Exception:
                log.exception("the models could not be closed")

    def _loaded(self) -> Backend[S] | None:
        """The models; None where there are none, for which `state` says why."""
        self._enter("loading", "Starting")
        try:
            backend = self._with_adapters(self._load(self._progressed))
            self.vocabulary = backend.vocabulary
        except (Cancelled, _Unwanted):
            return None
        except UmbrellaError as error:
            self._fail(str(error).rstrip("."), is_lost=is_loss(error))
            return None
        except Exception as error:
            log.exception("loading failed")
            self._fail(f"Loading failed: {error} ({type(error).__name__}). The engine's log has the details")
            return None
        self.load_share, self.speed = 1.0, backend.speed
        self._last_active = time.monotonic()
        self._enter("ready", backend.notice)
        return backend

    def _with_adapters(self, backend: Backend[S]) -> Backend[S]:
        """`backend` with every adapter there is; one that has gone bad since it was loaded is forgotten.

        Raises UmbrellaError for one that is new, with the models closed.
        """
        for name, path in self.adapters.items():
            try:
                backend.load_adapter(name, path)
            except UmbrellaError as error:
                if self.vocabulary is None or is_loss(error):
                    backend.close()
                    raise
                log.warning("the adapter %s is left out: %s", name, error)
                with self._lock:
                    self.adapters = {other: at for other, at in self.adapters.items() if other != name}
        return backend

    def _serve(self, backend: Backend[S]) -> None:
        """Run jobs until none has come for long enough, the models are unwanted, or the device is lost."""
        runner = Runner(backend, self._queue, self._metrics, lambda: self._act(backend))
        try:
            while True:
                job = self._queue.take(self._unload_s, lambda: bool(self._when_unloaded or self._acts))
                acted = self._act(backend)
                if job is not None:
                    self._run_job(runner, backend, job)
                elif not acted:
                    return
                if runner.lost is not None:
                    self._fail(str(runner.lost).rstrip("."), is_lost=True)
                    return
        finally:
            runner.close()

    def _run_job(self, runner: Runner[S], backend: Backend[S], job: Job) -> None:
        runner.run(job)
        self.message = backend.notice
        self._last_active = time.monotonic()
        self._queue.done(job)

    def _act(self, backend: Backend[S] | None) -> bool:
        """Do what was to be done between steps. False if that was nothing."""
        acted = False
        while True:
            with self._lock:
                act = self._acts.popleft() if self._acts else None
            if act is None:
                return acted
            acted = True
            act(backend)

    def _progressed(self, share: float, what: str) -> None:
        if self._stopping.is_set():
            raise Cancelled
        if self._when_unloaded and not self._queue.busy:
            raise _Unwanted
        self.load_share, self.message = share, what

    def _enter(self, state: HealthState, message: str = "") -> None:
        """Be in `state` from now on, unless the engine is about to end."""
        with self._lock:
            if self.state not in ("draining", "failed"):
                self.state, self.message = state, message

    def _fail(self, problem: str, *, is_lost: bool = False) -> None:
        log.error("the engine cannot serve: %s", problem)
        # Where the problem says what to do, this says what to do after it.
        next_step = (
            "It ends now; the next request starts another"
            if is_lost
            else "Then run `umbrella-engine stop`; the next request starts anew"
        )
        with self._lock:
            self.state, self.message, self.is_lost = "failed", f"{problem}. {next_step}.", is_lost
        self._last_active = time.monotonic()
        for job in self._queue.close():
            job.end(EngineUnavailable(self.message))
        self._act(None)
        self._at_failure()
