"""The engine's process: sockets on one event loop, models on the worker's thread, an end when idle."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from engine.api.access import LOOPBACK
from engine.api.app import Routes, create_app
from engine.backend import Load, S
from engine.config import EngineConfig
from engine.errors import ConfigError
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
    """uvicorn, except that a signal ends it like everything else does.

    Its own handling raises the signal again after serving, which would skip our cleaning up.
    """

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


def listen_tcp(host: str, port: int) -> socket.socket:
    """Listen on loopback. Raises ConfigError for any other host, or if the port cannot be had."""
    if host not in LOOPBACK:
        raise ConfigError(
            f"--host {host} is refused: the engine listens on loopback only ({', '.join(LOOPBACK)}). "
            "Use an SSH tunnel to reach it from elsewhere."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(f"--port {port} cannot be used: {error.strerror}. Choose another.") from error
    return listener


def serve(
    config: EngineConfig,
    load: Load[S],
    place: RuntimeDir,
    *,
    workspaces: Workspaces,
    tcp: socket.socket | None,
) -> bool:
    """Serve until drained, idle or told to end by a signal. The caller holds the lock of `place`.

    `load` starts `workspaces` once there is a tokenizer.

    Returns False if the process has to be ended without more ado: the worker's thread is still busy inside a
    library, or the device is gone, and what libraries do about that at the end may take for ever.
    """
    place.clear_tcp()  # A killed engine's would lead clients to a port that is not ours.
    listeners = [tcp] if tcp else []
    if hasattr(socket, "AF_UNIX"):
        listeners.append(place.listen())
    token = place.write_tcp(tcp.getsockname()[1]) if tcp else ""
    metrics = Metrics()
    metrics.watch_workspaces(lambda: workspaces.documents, lambda: workspaces.tokens)
    worker = Worker(load, metrics, max_queue=config.max_queue, unload_s=config.unload_s)
    try:
        asyncio.run(_serve(config, worker, metrics, workspaces, token, listeners))
    finally:
        stopped = worker.stop(STOP_TIMEOUT_S)
        workspaces.close(STOP_TIMEOUT_S)
        for listener in listeners:
            listener.close()
        place.clear()
    return stopped and not worker.is_lost


async def _serve(
    config: EngineConfig,
    executor: Executor,
    metrics: Metrics,
    workspaces: Workspaces,
    token: str,
    listeners: list[socket.socket],
) -> None:
    lifetime = Lifetime(executor, config.idle_s)
    server = _Server(
        uvicorn.Config(
            create_app(Routes(config, executor, metrics, workspaces, lifetime.drain), token),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
        )
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
        await server.serve(sockets=listeners)
    finally:
        ending.cancel()
