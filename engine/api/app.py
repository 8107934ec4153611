"""The routes: which body goes to which dialect, and how what goes wrong is answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from engine import __version__
from engine.api.access import Guard
from engine.api.adapters import LoadAdapterBody, UnloadAdapterBody
from engine.api.adapters import load as load_adapter
from engine.api.adapters import unload as unload_adapter
from engine.api.body import MAX_BODY_BYTES, BodyTooLarge, read_body
from engine.api.chat import ChatBody, ChatDialect
from engine.api.chat import to_requests as chat_requests
from engine.api.completions import CompletionBody, CompletionDialect
from engine.api.completions import to_requests as completion_requests
from engine.api.llama_routes import LlamaRoutes
from engine.api.models import card_of, cards, resolve
from engine.api.openai import Frame, Tally
from engine.api.problems import Problem, problem_of
from engine.api.respond import GenerationResponse
from engine.api.tgi import GenerateBody, TgiDialect, info
from engine.api.tgi import to_requests as tgi_requests
from engine.api.workspace import within_limits
from engine.config import EngineConfig
from engine.doors import LOOPBACK
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
        # llama-server's clients look for `status`; to ours, a state that they do not know says more.
        status = "ok" if health.state in ("ready", "unloaded") else f"{health.state}"
        return JSONResponse({**msgspec.to_builtins(health), "status": status})

    async def get_metrics(self, _request: Request) -> Response:
        """``GET /metrics``: Prometheus' text."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def get_models(self, _request: Request) -> Response:
        """``GET /v1/models``: the target and its adapters."""
        return JSONResponse({"object": "list", "data": cards(self.config, self.executor)})

    async def get_model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        return JSONResponse(card_of(request.path_params["name"], self.config, self.executor))

    async def post_completions(self, request: Request) -> GenerationResponse:
        """``POST /v1/completions``."""
        body = await read_body(request, CompletionBody)
        adapter = resolve(body.model, self.config, self.executor.adapters)
        requests = completion_requests(body, self.config, adapter)
        tally = Tally(len(requests), body.tried)
        frame = Frame.of(body, "cmpl", adapter or self.config.model, tally)
        dialect = CompletionDialect(body, self.executor, frame)
        return GenerationResponse(self.executor, self.metrics, requests, dialect)

    async def post_chat(self, request: Request) -> GenerationResponse:
        """``POST /v1/chat/completions``."""
        body = await read_body(request, ChatBody)
        adapter = resolve(body.model, self.config, self.executor.adapters)
        requests = chat_requests(body, self.config, adapter)
        tally = Tally(len(requests), len(requests))
        frame = Frame.of(body, "chatcmpl", adapter or self.config.model, tally)
        dialect = ChatDialect(body, self.executor, frame)
        return GenerationResponse(self.executor, self.metrics, requests, dialect)

    async def post_load_adapter(self, request: Request) -> Response:
        """``POST /v1/load_lora_adapter``."""
        said = await load_adapter(await read_body(request, LoadAdapterBody), self.config, self.executor)
        self.metrics.request_ended(_path(request), "ok")
        return PlainTextResponse(said)

    async def post_unload_adapter(self, request: Request) -> Response:
        """``POST /v1/unload_lora_adapter``."""
        said = await unload_adapter(await read_body(request, UnloadAdapterBody), self.executor)
        self.metrics.request_ended(_path(request), "ok")
        return PlainTextResponse(said)

    async def post_generate(self, request: Request) -> GenerationResponse:
        """``POST /generate``, ``/generate_stream`` and ``/``."""
        body, path = await read_body(request, GenerateBody), _path(request)
        stream = body.stream if path == "/" else path == "/generate_stream"
        adapter = resolve(body.parameters.adapter_id, self.config, self.executor.adapters)
        requests = tgi_requests(body, self.config, adapter, stream=stream)
        dialect = TgiDialect(body, requests, path, stream)
        return GenerationResponse(self.executor, self.metrics, requests, dialect)

    async def get_info(self, _request: Request) -> Response:
        """``GET /info``: TGI's, as far as its clients need it."""
        return JSONResponse(info(self.config, self.executor))

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
        self.metrics.request_ended(_counted(request), "refused")
        return problem_of(error).response(_path(request))

    async def too_large(self, request: Request, _error: Exception) -> Response:
        """The answer to a body that is too large to look at."""
        self.metrics.request_ended(_counted(request), "refused")
        message = f"The body is larger than {MAX_BODY_BYTES >> 20} MB. Send less text around the cursor."
        return Problem(413, message).response(_path(request))


async def nobody_there(_request: Request, _error: Exception) -> Response:
    """The answer to a client that went away before its body was whole: it goes nowhere."""
    return Response(status_code=400)


async def no_such_route(request: Request, error: Exception) -> Response:
    """The answer to a path or method there is not."""
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return Problem(error.status_code, error.detail, kind).response(_path(request))


def _path(request: Request) -> str:
    """The path that was asked for. Starlette's own goes through a URL, of which Host is a part."""
    return cast("str", request.scope["path"])


def _counted(request: Request) -> str:
    """The path as metrics have it: without the name it ends with, of which there can be any number."""
    return _path(request).removesuffix(request.path_params.get("name", ""))


def create_app(routes: Routes, token: str = "", hosts: tuple[str, ...] = LOOPBACK) -> Guard:
    """The ASGI application. Over TCP it refuses everything without a `token`, and any Host not in `hosts`."""
    app = Starlette(
        routes=[
            Route("/health", routes.get_health),
            Route("/v1/health", routes.get_health),
            Route("/metrics", routes.get_metrics),
            Route("/v1/models", routes.get_models),
            Route("/v1/models/{name:path}", routes.get_model),
            *LlamaRoutes(routes.config, routes.executor, routes.metrics).table(),
            Route("/v1/completions", routes.post_completions, methods=["POST"]),
            Route("/v1/chat/completions", routes.post_chat, methods=["POST"]),
            # llama-server's clients know these two without the version as well.
            Route("/chat/completions", routes.post_chat, methods=["POST"]),
            Route("/models", routes.get_models),
            Route("/v1/load_lora_adapter", routes.post_load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", routes.post_unload_adapter, methods=["POST"]),
            Route("/generate", routes.post_generate, methods=["POST"]),
            Route("/generate_stream", routes.post_generate, methods=["POST"]),
            Route("/", routes.post_generate, methods=["POST"]),
            Route("/info", routes.get_info),
            Route("/workspace", routes.post_workspace, methods=["POST"]),
            Route("/unload", routes.post_unload, methods=["POST"]),
            Route("/drain", routes.post_drain, methods=["POST"]),
        ],
        exception_handlers={
            UmbrellaError: routes.refused,
            BodyTooLarge: routes.too_large,
            HTTPException: no_such_route,
            ClientDisconnect: nobody_there,
        },
    )
    return Guard(app, token, hosts)
