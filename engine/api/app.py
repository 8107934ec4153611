"""The routes: which body goes to which dialect, and how what goes wrong is answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine import __version__
from engine.api.access import Guard
from engine.api.body import MAX_BODY_BYTES, BodyTooLarge, read_body
from engine.api.completions import CompletionBody, CompletionDialect
from engine.api.completions import to_request as completion_request
from engine.api.infill import InfillBody, InfillDialect
from engine.api.infill import to_request as infill_request
from engine.api.problems import error_body, response_to
from engine.api.respond import GenerationResponse
from engine.api.workspace import within_limits
from engine.config import EngineConfig
from engine.errors import UmbrellaError
from engine.executor import Executor
from engine.metrics import CONTENT_TYPE, Metrics
from engine.protocol import PROTOCOL_VERSION, UNLOAD_WAIT_S, Health, WorkspacePush
from engine.workspace import Workspaces


@dataclass(frozen=True, slots=True)
class Routes:
    """One method a route."""

    config: EngineConfig
    executor: Executor
    metrics: Metrics
    workspaces: Workspaces
    drain_begun: Callable[[], None]
    """Called when a client has asked the engine to end."""

    async def get_health(self, _request: Request) -> Response:
        """``GET /health``: a `Health`."""
        model, draft_model = self.config.shown_names
        health = Health(
            state=self.executor.state,
            progress=self.executor.load_share,
            package=__version__,
            protocol=PROTOCOL_VERSION,
            config_hash=self.config.digest(),
            pid=os.getpid(),
            busy=self.executor.busy,
            message=self.executor.message,
            pass_ms=self.executor.speed.pass_ms,
            draft_ms=self.executor.speed.draft_ms,
            model=model,
            draft_model=draft_model,
            languages=self.config.languages,
        )
        return Response(msgspec.json.encode(health), media_type="application/json")

    async def get_metrics(self, _request: Request) -> Response:
        """``GET /metrics``: Prometheus' text."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def get_models(self, _request: Request) -> Response:
        """``GET /v1/models``: the one there is."""
        entry = {"id": self.config.model, "object": "model", "created": 0, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def post_infill(self, request: Request) -> GenerationResponse:
        """``POST /infill``."""
        body = await read_body(request, InfillBody)
        dialect = InfillDialect(self.config.model, body.stream)
        return GenerationResponse(self.executor, self.metrics, infill_request(body, self.config), dialect)

    async def post_completions(self, request: Request) -> GenerationResponse:
        """``POST /v1/completions``."""
        body = await read_body(request, CompletionBody)
        usage = body.stream_options is not None and body.stream_options.include_usage
        dialect = CompletionDialect(self.config.model, body.stream, usage)
        return GenerationResponse(self.executor, self.metrics, completion_request(body, self.config), dialect)

    async def post_workspace(self, request: Request) -> Response:
        """``POST /workspace``: text to draft from."""
        sent = await read_body(request, WorkspacePush)
        taken = within_limits(sent)
        self.workspaces.push(taken)
        self.metrics.request_ended("/workspace", "ok")
        queued = len(taken.documents)
        return JSONResponse({"queued": queued, "skipped": len(sent.documents) - queued}, 202)

    async def post_unload(self, _request: Request) -> Response:
        """``POST /unload``: give the models' memory back, and stay. 202 if that waits for what is running."""
        loop, unloaded = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # The loop is closed: the process is ending.
                loop.call_soon_threadsafe(unloaded.set)

        self.executor.unload(tell)
        with suppress(TimeoutError):
            await asyncio.wait_for(unloaded.wait(), UNLOAD_WAIT_S)
        return JSONResponse({"state": self.executor.state}, 200 if unloaded.is_set() else 202)

    async def post_drain(self, _request: Request) -> Response:
        """``POST /drain``: finish what was accepted, then end."""
        self.drain_begun()
        return JSONResponse({"state": "draining"}, 202)

    async def refused(self, request: Request, error: Exception) -> Response:
        """The answer to a body that cannot be served."""
        assert isinstance(error, UmbrellaError)
        self.metrics.request_ended(request.url.path, "refused")
        return response_to(error)

    async def too_large(self, request: Request, _error: Exception) -> Response:
        """The answer to a body that is too large to look at."""
        self.metrics.request_ended(request.url.path, "refused")
        message = f"The body is larger than {MAX_BODY_BYTES >> 20} MB. Send less text around the cursor."
        return JSONResponse(error_body(413, message, "invalid_request_error"), 413)


async def no_such_route(_request: Request, error: Exception) -> Response:
    """The answer to a path or method there is not."""
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return JSONResponse(error_body(error.status_code, error.detail, kind), error.status_code)


def create_app(routes: Routes, token: str = "") -> Guard:
    """The ASGI application. Without a `token`, everything that comes over TCP is refused."""
    app = Starlette(
        routes=[
            Route("/health", routes.get_health),
            Route("/metrics", routes.get_metrics),
            Route("/v1/models", routes.get_models),
            Route("/infill", routes.post_infill, methods=["POST"]),
            Route("/v1/completions", routes.post_completions, methods=["POST"]),
            Route("/workspace", routes.post_workspace, methods=["POST"]),
            Route("/unload", routes.post_unload, methods=["POST"]),
            Route("/drain", routes.post_drain, methods=["POST"]),
        ],
        exception_handlers={
            UmbrellaError: routes.refused,
            BodyTooLarge: routes.too_large,
            HTTPException: no_such_route,
        },
    )
    return Guard(app, token)
