"""An engine without models: it listens where a real one would and says what a test has written for it."""

from __future__ import annotations

import importlib
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.protocol import PROTOCOL_VERSION, Health, StopReason, Timings, TokenCounts, UmbrellaReply

# Not `from engine import`: type checkers take that for the folder of tests of the same name.
PACKAGE_VERSION: str = importlib.import_module("engine").__version__


@dataclass(frozen=True, slots=True)
class Line:
    """One scripted answer, streamed in pieces."""

    pieces: tuple[str, ...]
    stop: StopReason = StopReason.END
    is_held: bool = False
    """Never ends by itself: after its pieces it waits for the client to go away."""
    is_broken: bool = False
    """Ends as a crash does, after its pieces and without an event that says so."""


@dataclass
class Script:
    """What will be answered, and what has been asked. Shared between the test and the engine's thread."""

    lines: list[Line] = field(default_factory=list)
    """Answers in order; the last one is repeated."""
    asked: Queue[dict[str, Any]] = field(default_factory=Queue)
    pushed: Queue[dict[str, Any]] = field(default_factory=Queue)
    """Bodies of ``POST /workspace``."""
    pid: int = field(default_factory=os.getpid)
    health: dict[str, Any] = field(default_factory=dict[str, Any])
    """What ``GET /health`` says otherwise than an engine that is ready."""
    has_ended: threading.Event = field(default_factory=threading.Event)
    """Set by ``POST /drain``, or by a test that wants the engine to end as an idle one does."""
    unloads: int = 0
    """How often it was to give its memory back."""
    closed: Queue[str] = field(default_factory=Queue)
    """The session of every stream the client closed early."""

    def say(self, *pieces: str, stop: StopReason = StopReason.END) -> None:
        self.lines.append(Line(pieces, stop))

    def hold(self, *pieces: str) -> None:
        self.lines.append(Line(pieces, is_held=True))

    def break_off(self, *pieces: str) -> None:
        self.lines.append(Line(pieces, is_broken=True))

    def next_line(self) -> Line:
        return self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]


def _event(text: str, *, generated: int, stop: StopReason | None = None) -> bytes:
    reply = UmbrellaReply(
        Timings(1.0, 2.0, 3.0, 6.0), TokenCounts(50, 40, generated, 7, 5, 3), logprobs=(), stop=stop
    )
    event = {"content": text, "stop": stop is not None, "umbrella": msgspec.to_builtins(reply)}
    return f"data: {json.dumps(event)}\n\n".encode()


def app(script: Script) -> Starlette:
    """What of an engine's HTTP interface editors' servers use, as `engine.protocol` has it."""

    async def health(_request: Request) -> Response:
        state = Health("ready", 1.0, PACKAGE_VERSION, PROTOCOL_VERSION, "scripted", script.pid)
        return JSONResponse({**msgspec.to_builtins(state), **script.health})

    async def drain(_request: Request) -> Response:
        script.has_ended.set()
        return JSONResponse({}, 202)

    async def unload(_request: Request) -> Response:
        script.unloads += 1
        script.health["state"] = "unloaded"
        return JSONResponse({})

    async def workspace(request: Request) -> Response:
        script.pushed.put(await request.json())
        return JSONResponse({}, 202)

    async def infill(request: Request) -> Response:
        body = await request.json()
        script.asked.put(body)
        line = script.next_line()

        async def events() -> AsyncIterator[bytes]:
            for number, piece in enumerate(line.pieces, 1):
                yield _event(piece, generated=number)
            if line.is_broken:
                return
            if line.is_held:
                # The body has been read, so all that can still come is the end of the connection.
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                script.closed.put(body["umbrella"]["session"])
                return
            yield _event("", generated=len(line.pieces), stop=line.stop)

        return StreamingResponse(events(), media_type="text/event-stream")

    posts = [Route("/infill", infill, methods=["POST"]), Route("/workspace", workspace, methods=["POST"])]
    posts += [Route("/drain", drain, methods=["POST"]), Route("/unload", unload, methods=["POST"])]
    return Starlette(routes=[Route("/health", health), *posts])


@contextmanager
def running(folder: Path) -> Generator[Script]:
    """A scripted engine in a thread, on ``engine.sock`` in `folder`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    script = Script()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "engine.sock"))
    config = uvicorn.Config(app(script), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()

    def end() -> None:
        script.has_ended.wait()
        server.should_exit = True
        thread.join()
        listener.close()
        (folder / "engine.sock").unlink(missing_ok=True)

    ending = threading.Thread(target=end)
    ending.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield script
    finally:
        script.has_ended.set()
        ending.join()
