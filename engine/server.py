"""The engine's process: sockets on one event loop, models on the worker's thread, an end when idle."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine import __version__
from engine.api.access import LOOPBACK, Guard
from engine.api.body import MAX_BODY_BYTES, BodyTooLarge, read_body
from engine.api.completions import CompletionBody, CompletionDialect
from engine.api.completions import to_request as completion_request
from engine.api.infill import InfillBody, InfillDialect
from engine.api.infill import to_request as infill_request
from engine.api.problems import error_body, response_to
from engine.api.respond import GenerationResponse
from engine.backend import Load, S
from engine.config import EngineConfig
from engine.errors import ConfigError, UmbrellaError
from engine.metrics import CONTENT_TYPE, Metrics
from engine.protocol import PROTOCOL_VERSION, Health
from engine.runtime import RuntimeDir
from engine.worker import Worker

log = logging.getLogger(__name__)

FAILED_IDLE_S = 60.0
"""An engine that could not load ends soon, so that the next client tries again with what was mended."""
DRAIN_POLL_S = 0.05
STOP_TIMEOUT_S = 3.0


@dataclass(slots=True)
class Service:
    """What the routes need, and what decides when the process ends."""

    config: EngineConfig
    worker: Worker[Any]
    metrics: Metrics
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once somebody asked for the end."""

    @property
    def health(self) -> Health:
        """The body of ``GET /health``."""
        return Health(
            state=self.worker.state,
            progress=self.worker.load_share,
            package=__version__,
            protocol=PROTOCOL_VERSION,
            config_hash=self.config.digest(),
            pid=os.getpid(),
            message=self.worker.failure,
        )

    def drain(self) -> None:
        """Finish what was accepted, then end."""
        self.worker.drain()
        self.drained.set()

    async def over(self) -> None:
        """Return when the process should end: drained, or idle for long enough."""
        while True:
            if self.drained.is_set():
                if not self.worker.busy:
                    return
                await asyncio.sleep(DRAIN_POLL_S)
                continue
            left_s = self._idle_limit_s() - self.worker.idle_s
            if left_s <= 0:
                log.info("idle: ending")
                self.drain()
                continue
            try:
                # Loading can turn into failure meanwhile, which has a shorter limit.
                await asyncio.wait_for(self.drained.wait(), min(left_s, FAILED_IDLE_S))
            except TimeoutError:
                continue

    def _idle_limit_s(self) -> float:
        configured = self.config.idle_s or float("inf")
        return min(configured, FAILED_IDLE_S) if self.worker.state == "failed" else configured


def create_app(service: Service, token: str = "") -> Guard:
    """The ASGI application. Without a `token`, everything that comes over TCP is refused."""

    async def health(_request: Request) -> Response:
        return Response(msgspec.json.encode(service.health), media_type="application/json")

    async def metrics(_request: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def models(_request: Request) -> Response:
        entry = {"id": service.config.model, "object": "model", "created": 0, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def infill(request: Request) -> GenerationResponse:
        body = await read_body(request, InfillBody)
        dialect = InfillDialect(service.config.model, body.stream)
        wanted = infill_request(body, service.config)
        return GenerationResponse(service.worker, service.metrics, wanted, dialect)

    async def completions(request: Request) -> GenerationResponse:
        body = await read_body(request, CompletionBody)
        usage = body.stream_options is not None and body.stream_options.include_usage
        dialect = CompletionDialect(service.config.model, body.stream, usage)
        wanted = completion_request(body, service.config)
        return GenerationResponse(service.worker, service.metrics, wanted, dialect)

    async def workspace(_request: Request) -> Response:
        message = "POST /workspace is reserved for a later version; nothing was stored."
        return JSONResponse(error_body(501, message, "not_supported_error"), 501)

    async def drain(_request: Request) -> Response:
        service.drain()
        return JSONResponse({"state": "draining"}, 202)

    async def refused(request: Request, error: Exception) -> Response:
        service.metrics.request_ended(request.url.path, "refused")
        assert isinstance(error, UmbrellaError)
        return response_to(error)

    async def too_large(request: Request, _error: Exception) -> Response:
        service.metrics.request_ended(request.url.path, "refused")
        message = f"The body is larger than {MAX_BODY_BYTES >> 20} MB. Send less text around the cursor."
        return JSONResponse(error_body(413, message, "invalid_request_error"), 413)

    async def http_problem(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return JSONResponse(error_body(error.status_code, error.detail, kind), error.status_code)

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/v1/models", models),
            Route("/infill", infill, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/workspace", workspace, methods=["POST"]),
            Route("/drain", drain, methods=["POST"]),
        ],
        exception_handlers={
            UmbrellaError: refused,
            BodyTooLarge: too_large,
            HTTPException: http_problem,
        },
    )
    return Guard(app, token)


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


def serve(config: EngineConfig, load: Load[S], place: RuntimeDir, *, tcp: socket.socket | None) -> bool:
    """Serve until drained, idle or told to end by a signal. The caller holds the lock of `place`.

    Returns False if the worker's thread is still busy inside a library and has to be left behind.
    """
    listeners = [tcp] if tcp else []
    if hasattr(socket, "AF_UNIX"):
        listeners.append(place.listen())
    token = place.write_tcp(tcp.getsockname()[1]) if tcp else ""
    metrics = Metrics()
    worker = Worker(load, metrics, slots=config.slots, max_queue=config.max_queue)
    try:
        asyncio.run(_serve(Service(config, worker, metrics), token, listeners))
    finally:
        stopped = worker.stop(STOP_TIMEOUT_S)
        for listener in listeners:
            listener.close()
        place.clear()
    return stopped


async def _serve(service: Service, token: str, listeners: list[socket.socket]) -> None:
    server = _Server(
        uvicorn.Config(
            create_app(service, token),
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
        await service.over()
        server.should_exit = True

    service.worker.start()
    ending = asyncio.create_task(end())
    try:
        await server.serve(sockets=listeners)
    finally:
        ending.cancel()
