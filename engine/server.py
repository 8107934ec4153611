"""The engine's process: sockets on one event loop, models on the worker's thread, an end when idle."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import uvicorn

from engine.api.app import Routes, create_app
from engine.backend import Load, S
from engine.config import EngineConfig
from engine.connection import Connection, Visitors
from engine.doors import UNIX_LIMITS, Door
from engine.executor import Executor
from engine.metrics import Metrics
from engine.runtime import RuntimeDir
from engine.worker import Worker
from engine.workspace import Workspaces

log = logging.getLogger(__name__)

FAILED_IDLE_S = 60.0
"""An engine that could not load ends soon, so that the next client tries again with what was mended."""
LOST_IDLE_S = 1.0
"""One whose device is gone ends at once, but for what is still being said about that."""
DRAIN_POLL_S = 0.05
STOP_TIMEOUT_S = 3.0


class Lifetime:
    """Decides when the process ends: drained, or idle for long enough."""

    def __init__(self, executor: Executor, idle_limit_s: float) -> None:
        self._executor = executor
        self._idle_limit_s = idle_limit_s or float("inf")
        self._is_draining = False
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Finish what was accepted, then end."""
        self._executor.drain()
        self._is_draining = True
        self._changed.set()

    def look_again(self) -> None:
        """The executor has failed, so that the end is nearer."""
        self._changed.set()

    async def over(self) -> None:
        """Return when the process should end."""
        while not self._is_draining and (left_s := self._limit_s() - self._executor.idle_s) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)
            self._changed.clear()
        if not self._is_draining:
            log.info("idle: ending")
            self.drain()
        while self._executor.busy:  # noqa: ASYNC110 - a thread's doing, and a signal must not have to wait for it
            await asyncio.sleep(DRAIN_POLL_S)

    def _limit_s(self) -> float:
        if self._executor.state != "failed":
            return self._idle_limit_s
        return min(self._idle_limit_s, LOST_IDLE_S if self._executor.is_lost else FAILED_IDLE_S)


class _Server(uvicorn.Server):
    """uvicorn, except that each door has its limits, and that a signal ends it like everything else does.

    Its own handling raises the signal again after serving, which would skip our cleaning up.
    """

    def __init__(self, config: uvicorn.Config, doors: Sequence[Door]) -> None:
        super().__init__(config)
        self._doors = doors

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Listen at every door, in place of `sockets`."""
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                partial(
                    Connection,
                    Visitors(door),
                    config=self.config,
                    server_state=self.server_state,
                    app_state=self.lifespan.state,
                ),
                sock=door.listener,
                ssl=door.tls,
                ssl_handshake_timeout=door.limits.head_s if door.tls else None,
                backlog=self.config.backlog,
            )
            for door in self._doors
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._ended) for number in ours}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ended(self, _signal: int, _frame: FrameType | None) -> None:
        self.should_exit = True


def executor_for(config: EngineConfig, load: Load[S], metrics: Metrics) -> Executor:
    """What runs generations for `config`: models that `load` loads, or servers elsewhere."""
    worker = Worker(
        load, metrics, max_queue=config.max_queue, unload_s=config.unload_s, adapters=config.adapters
    )
    if config.engine != "remote":
        return worker
    from engine.remote.executor import RemoteExecutor  # httpx is not needed otherwise.

    return RemoteExecutor(config, metrics, worker if config.fallback else None)


def serve(
    config: EngineConfig,
    load: Load[S],
    place: RuntimeDir,
    *,
    workspaces: Workspaces,
    tcp: Door | None,
) -> bool:
    """Serve until drained, idle or told to end by a signal. The caller holds the lock of `place`.

    `load` starts `workspaces` once there is a tokenizer.

    Returns False if the process has to be ended without more ado: the worker's thread is still busy inside a
    library, or the device is gone, and what libraries do about that at the end may take for ever.
    """
    place.clear_tcp()  # A killed engine's would lead clients to a port that is not ours.
    doors = [tcp] if tcp else []
    if hasattr(socket, "AF_UNIX"):
        doors.append(Door(place.listen(), UNIX_LIMITS))
    token = place.write_tcp(tcp.listener.getsockname()[1], tcp.token) if tcp else ""
    metrics = Metrics()
    metrics.watch_workspaces(lambda: workspaces.documents, lambda: workspaces.tokens)
    executor = executor_for(config, load, metrics)
    try:
        asyncio.run(_serve(config, executor, metrics, workspaces, token, doors))
    finally:
        stopped = executor.stop(STOP_TIMEOUT_S)
        workspaces.close(STOP_TIMEOUT_S)
        for door in doors:
            door.listener.close()
        place.clear()
    return stopped and not executor.is_lost


async def _serve(
    config: EngineConfig,
    executor: Executor,
    metrics: Metrics,
    workspaces: Workspaces,
    token: str,
    doors: Sequence[Door],
) -> None:
    lifetime = Lifetime(executor, config.idle_s)
    hosts = tuple(name for door in doors for name in door.hosts)
    server = _Server(
        uvicorn.Config(
            create_app(Routes(config, executor, metrics, workspaces, lifetime.drain), token, hosts),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # Whatever a client writes into X-Forwarded-For is not where it comes from.
            timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
        ),
        doors,
    )

    async def end() -> None:
        await lifetime.over()
        server.should_exit = True

    loop = asyncio.get_running_loop()

    def failed() -> None:
        with suppress(RuntimeError):  # The loop is closed: it ends anyway.
            loop.call_soon_threadsafe(lifetime.look_again)

    executor.start(failed)
    ending = asyncio.create_task(end())
    try:
        await server.serve()
    finally:
        ending.cancel()
