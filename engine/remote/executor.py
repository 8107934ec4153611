"""Runs generations on servers elsewhere, and here while none of them answers. What HTTP knows of all that.

One thread has an event loop, on which everything happens that other threads ask for. Prompts are made on a
second one, since a long one takes its time. Torch-free: models that stand in are a worker's, which loads them
when they are needed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from engine.backend import Speed, Vocabulary
from engine.config import EngineConfig
from engine.doors import LOOPBACK
from engine.errors import ConfigError, EngineBusy, EngineUnavailable, UmbrellaError
from engine.executor import Executor, Ticket
from engine.jobs import Chunk, Deliver
from engine.metrics import Metrics
from engine.progress import untold
from engine.protocol import NO_SERVER, HealthState
from engine.remote.dispatch import write
from engine.remote.job import RemoteJob
from engine.remote.pool import Pool
from engine.remote.prompts import RemotePrompts
from engine.remote.stand_in import StandIn
from engine.remote.upstream import Patience, Upstream
from engine.request import GenerationRequest
from engine.runner import log_without_message

log = logging.getLogger(__name__)

_ADAPTERS = (
    "Adapters of a remote engine are loaded by its servers. Load it there, and name it in adapters here."
)


class RemoteExecutor:
    """`engine.executor.Executor` for `config.upstreams`.

    `fallback` runs the target here; it is started when it is first needed. None: there is none.
    """

    def __init__(
        self,
        config: EngineConfig,
        metrics: Metrics,
        fallback: Executor | None = None,
        *,
        patience: Patience | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._stand_in = StandIn(fallback, config.shown_names[0]) if fallback else None
        self._patience = patience or Patience()
        self._environment = environment
        self._lock = threading.Lock()
        """Guards admission and the jobs."""
        self._jobs: dict[RemoteJob, None] = {}
        self._sequence = itertools.count()
        self._is_draining = False
        self._problem = ""
        """Why there can be no prompts, and so no generations."""
        self._last_active = time.monotonic()
        self._prompts: RemotePrompts | None = None
        self._pool: Pool | None = None
        self._are_prompts_made = asyncio.Event()
        self._ending = asyncio.Event()
        self._shortening: asyncio.Task[None] | None = None
        self._told: dict[Upstream, str] = {}
        """What the log says of each server."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="umbrella-remote", daemon=True)
        self._writer = ThreadPoolExecutor(1, "umbrella-prompts")
        self._at_failure: Callable[[], None] = lambda: None
        metrics.watch_queue(lambda: sum(job.is_waiting for job in list(self._jobs)))

    # What others ask, from any thread.

    @property
    def state(self) -> HealthState:
        """``ready`` while a server answers, or models are loaded here."""
        if self._is_draining:
            return "draining"
        if self._problem:
            return "failed"
        if self._prompts is None:
            return "loading"
        if self._up:
            return "ready"
        state = self._stand_in.state if self._stand_in else "loading"
        return "loading" if state in ("starting", "failed") else state

    @property
    def load_share(self) -> float:
        """0 to 1: how much is loaded."""
        if self._up:
            return 1.0
        return self._stand_in.load_share if self._stand_in else 0.0

    @property
    def message(self) -> str:
        """Who is asked, where that is worth saying."""
        if self._problem:
            return f"{self._problem}. Then run `umbrella-engine stop`; the next request starts anew."
        pool, total = self._pool, len(self._config.upstreams)
        if pool is None or self._prompts is None:
            return "Asking the servers"
        if not pool.up:
            then = self._stand_in.message if self._stand_in else "The next request looks for one again."
            return f"{NO_SERVER}: {pool.problems}. {then}"
        parts = [f"{pool.up} of {total} servers answer: {pool.problems}."] if pool.problems else []
        return " ".join([*parts, *self._warnings()])

    @property
    def is_lost(self) -> bool:
        """Whether a device was lost by what runs here: its thread may never end."""
        return self._stand_in is not None and self._stand_in.is_lost

    @property
    def speed(self) -> Speed:
        """Of models that run here; nothing is known of others beforehand."""
        return self._stand_in.speed if self._stand_in and not self._up else Speed()

    @property
    def busy(self) -> bool:
        """Whether a generation runs or waits."""
        return bool(self._jobs)

    @property
    def idle_s(self) -> float:
        """Seconds since a generation was last accepted or ended; 0 while busy."""
        return 0.0 if self.busy else time.monotonic() - self._last_active

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The target's tokens, once its tokenizer has been read."""
        return self._prompts.vocabulary if self._prompts else None

    @property
    def adapters(self) -> Mapping[str, str]:
        """The adapters that the servers are said to have."""
        return {adapter.name: adapter.path for adapter in self._config.adapters}

    def start(self, at_failure: Callable[[], None] = lambda: None) -> None:
        """Look at the servers, and read the tokenizer."""
        self._at_failure = at_failure
        self._thread.start()

    def submit(self, request: GenerationRequest, deliver: Deliver) -> RemoteJob:
        """Queue a generation; `deliver` is called on a thread of ours. Raises EngineUnavailable."""
        (job,) = self.submit_all([(request, deliver)])
        return job

    def submit_all(self, asked: Sequence[tuple[GenerationRequest, Deliver]]) -> Sequence[RemoteJob]:
        """Queue a generation for each, or none, as `submit` does."""
        with self._lock:
            if self._is_draining:
                raise EngineBusy("The engine is shutting down. Send the request again in a second.")
            if self._problem:
                raise EngineUnavailable(self.message)
            waiting = sum(job.is_waiting for job in self._jobs)
            if waiting + len(asked) > self._config.max_queue:
                raise EngineBusy(
                    f"{waiting} requests are waiting already, and {self._config.max_queue} may. Send fewer "
                    "at a time, cancel some, or raise max_queue."
                )
            jobs = [RemoteJob(request, deliver, next(self._sequence)) for request, deliver in asked]
            self._jobs |= dict.fromkeys(jobs)
            self._last_active = time.monotonic()
            for job in jobs:  # Still locked: once drained, nothing more begins.
                self._loop.call_soon_threadsafe(self._begin, job)
        return jobs

    def cancel(self, ticket: Ticket) -> None:
        """End a generation, and close its connection. Harmless when it is over."""
        assert isinstance(ticket, RemoteJob), "a ticket of another executor's"
        if not ticket.over and not ticket.is_cancelled:
            ticket.is_cancelled = True
            self._metrics.cancels.inc()
            with suppress(RuntimeError):  # The loop is closed, and so is every job over.
                self._loop.call_soon_threadsafe(ticket.interrupt)

    def load_adapter(self, name: str, path: str, then: Callable[[UmbrellaError | None], None]) -> None:
        """Refused: servers have adapters of their own."""
        then(ConfigError(f"{path} cannot be loaded as {name}: {_ADAPTERS}"))

    def drop_adapter(self, name: str, then: Callable[[UmbrellaError | None], None]) -> None:
        """Refused: servers have adapters of their own."""
        then(ConfigError(f"{name} cannot be dropped: {_ADAPTERS}"))

    def unload(self, then: Callable[[], None]) -> None:
        """Give back the memory of models that run here, if any do, and call `then`."""
        if self._stand_in is not None:
            self._stand_in.unload(then)
        else:
            then()

    def drain(self) -> None:
        """Finish what was accepted, accept nothing more."""
        with self._lock:
            self._is_draining = True

    def stop(self, timeout_s: float) -> bool:
        """Cancel everything and end. False if something is still busy after `timeout_s`."""
        self.drain()
        end_at = time.monotonic() + timeout_s
        if self._thread.ident is None:
            self._loop.close()
        else:
            with suppress(RuntimeError):  # It has ended.
                self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(timeout_s)
        has_ended = not self._thread.is_alive()
        self._writer.shutdown(wait=False, cancel_futures=True)
        if self._stand_in is not None:
            has_ended &= self._stand_in.stop(max(0.1, end_at - time.monotonic()))
        return has_ended

    # What happens on our own thread.

    @property
    def _up(self) -> int:
        return self._pool.up if self._pool else 0

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        # Neither proxies nor passwords come from the environment: what is asked is what is configured.
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(),
            trust_env=False,
            timeout=httpx.Timeout(None, connect=self._patience.connect_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0),
        ) as client:
            upstreams = [
                Upstream(named, client, self._patience, self._environment) for named in self._config.upstreams
            ]
            self._pool = Pool(upstreams, self._patience, self._looked)
            for warning in self._warnings():
                log.warning("%s", warning)
            preparing = asyncio.create_task(self._prepare(self._pool))
            await self._ending.wait()
            preparing.cancel()
            await self._pool.stop()
            tasks = [job.task for job in list(self._jobs) if job.task]
            for task in tasks:
                task.cancel()
            await asyncio.gather(preparing, *tasks, return_exceptions=True)

    async def _prepare(self, pool: Pool) -> None:
        pool.want()
        await pool.known()
        try:
            await self._read_prompts()
        except UmbrellaError as error:
            self._fail(str(error).rstrip("."))
        except Exception as error:
            log.exception("the tokenizer cannot be read")
            self._fail(
                f"The tokenizer cannot be read ({type(error).__name__}); the engine's log has the details"
            )

    async def _read_prompts(self) -> None:
        """Read what makes prompts, short enough for every server that is known."""
        lengths = [each.max_length for each in self._pool.upstreams if each.max_length] if self._pool else []
        told = untold if self._config.download else None
        self._prompts = await self._loop.run_in_executor(
            self._writer, RemotePrompts.load, self._config, told, min(lengths, default=None)
        )
        self._are_prompts_made.set()

    def _fail(self, problem: str) -> None:
        log.error("the engine cannot serve: %s", problem)
        with self._lock:
            self._problem = problem
        self._are_prompts_made.set()
        self._at_failure()

    def _looked(self, upstream: Upstream) -> None:
        if self._told.get(upstream) != upstream.problem:
            self._told[upstream] = upstream.problem
            log.info("%s", upstream.problem or f"{upstream.name} answers")
        prompts = self._prompts
        if prompts is not None and upstream.max_length and upstream.max_length < prompts.max_length:
            self._shortening = asyncio.create_task(self._read_prompts())

    def _begin(self, job: RemoteJob) -> None:
        job.task = asyncio.create_task(self._generate(job))
        # A callback, since a task that is cancelled before its first step runs nothing of its own.
        job.task.add_done_callback(lambda task: self._end(job, task))
        if job.is_cancelled or self._ending.is_set():
            job.task.cancel()

    def _end(self, job: RemoteJob, task: asyncio.Task[Chunk | None]) -> None:
        """Deliver what `task` came to, whatever that is."""
        try:
            last = task.result()
        except asyncio.CancelledError:
            last = job.cancelled()
        except UmbrellaError as error:
            last = error
        except Exception as error:  # noqa: BLE001 - one request's failure is not the engine's
            log_without_message(error)
            last = EngineUnavailable(
                f"The engine failed inside ({type(error).__name__}). Its log says where."
            )
        if isinstance(last, Chunk):
            self._metrics.generation_ended(last.counts, last.timings)
        with self._lock:
            self._jobs.pop(job, None)
            self._last_active = time.monotonic()
        if last is not None:
            job.deliver(last)

    async def _generate(self, job: RemoteJob) -> Chunk | None:
        """Have somebody write `job`'s text. Returns the last chunk; None if it has been delivered."""
        await self._are_prompts_made.wait()
        pool, prompts = self._pool, self._prompts
        if pool is None or prompts is None:
            raise EngineUnavailable(self.message)
        pool.want()
        prompt = await self._loop.run_in_executor(self._writer, prompts.build, job.request)
        return await write(job, prompt, prompts, pool, self._stand_in, self._patience)

    def _warnings(self) -> list[str]:
        """What the user should know of how servers are asked."""
        parts = [urlsplit(upstream.url) for upstream in self._config.upstreams]
        hosts = {part.hostname for part in parts if part.scheme == "http" and part.hostname not in LOOPBACK}
        return [
            f"Code travels to {host} unencrypted, for its url begins with http://. Use https:// where others "
            "can listen."
            for host in sorted(filter(None, hosts))
        ]
