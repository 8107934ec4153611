"""A server whose every byte a test decides, and a remote engine that asks it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from engine.config import EngineConfig
from engine.config_tables import UpstreamName
from engine.executor import Executor
from engine.metrics import Metrics
from engine.protocol import StopSpec
from engine.remote.executor import RemoteExecutor
from engine.remote.upstream import Patience
from engine.request import GenerationRequest, TextPrompt
from tests.engine.fakes import DEADLINE_S, eventually

HASTY = Patience(
    connect_s=DEADLINE_S,
    first_byte_s=DEADLINE_S,
    next_byte_s=DEADLINE_S,
    look_s=DEADLINE_S,
    retry_s=1.0,
    pause_s=0.01,
    longest_pause_s=0.05,
)
"""So that little is waited between attempts. How long a server is waited for, tests say that need it."""
PATIENT = replace(HASTY, retry_s=DEADLINE_S)
"""For tests in which nobody is given up."""

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """A whole response."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"} | headers
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def event(text: str, finish: str | None = None, **more: Any) -> bytes:
    """An event of a stream."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def whole(*texts: str, finish: str = "length") -> bytes:
    """A stream from its first byte to its last."""
    return STREAM + b"".join(map(event, texts)) + event("", finish) + b"data: [DONE]\n\n"


@dataclass(slots=True)
class Call:
    """A request that has come, and its connection."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Until the client has closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                while await self.reader.read(1024):
                    pass


Script = Callable[[Call], Awaitable[None]]


def says(data: bytes) -> Script:
    """Answers with `data`, whatever is asked."""

    async def script(call: Call) -> None:
        await call.send(data)

    return script


def then(data: bytes) -> Script:
    """Sends `data`, and then nothing, until the client has gone."""

    async def script(call: Call) -> None:
        await call.send(data)
        await call.gone()

    return script


@dataclass(slots=True)
class Scripted:
    """A server on loopback. `script` answers ``/v1/completions``, and may be replaced at any time."""

    script: Script
    owner: str = "vllm"
    cards: bytes | None = None
    """What is answered to ``/v1/models``; None: a list of one model."""
    calls: list[Call] = field(default_factory=list[Call])
    port: int = 0
    loop: asyncio.AbstractEventLoop | None = None

    def do(self, act: Callable[[], object]) -> None:
        """Have `act` done where it serves."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(act)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [call.body for call in self.calls]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            headers["authorization"] = next(
                (x[15:] for x in head if x.lower().startswith("authorization:")), ""
            )
            data = await reader.readexactly(int(headers.get("content-length", "0")))
            call = Call(head[0].split(" ")[1], headers, json.loads(data or b"{}"), reader, writer)
            if call.path == "/v1/models":
                card = {"id": "theirs", "owned_by": self.owner, "max_model_len": 512}
                await call.send(self.cards or answer("200 OK", json.dumps({"data": [card]}).encode()))
            elif call.path == "/health":
                await call.send(answer("200 OK"))
            else:
                self.calls.append(call)
                await self.script(call)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The test is over, or the client has gone.
        finally:
            writer.close()


@contextmanager
def scripted(*servers: Scripted) -> Generator[None]:
    """Have `servers` listen, from a thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()

    async def listen() -> None:
        listening = [await asyncio.start_server(each.serve, "127.0.0.1", each.port) for each in servers]
        for each, server in zip(servers, listening, strict=True):
            each.port, each.loop = server.sockets[0].getsockname()[1], loop
        ready.set()
        await end.wait()
        for server in listening:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(listen()))
    thread.start()
    assert ready.wait(DEADLINE_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(DEADLINE_S)
        loop.close()


def names(*servers: Scripted, **options: Any) -> tuple[UpstreamName, ...]:
    return tuple(UpstreamName(server.url, **options) for server in servers)


@contextmanager
def remote(
    upstreams: Sequence[UpstreamName],
    patience: Patience = PATIENT,
    fallback: Executor | None = None,
    *,
    metrics: Metrics | None = None,
    **config: Any,
) -> Generator[RemoteExecutor]:
    """A remote engine that has looked at its servers. `config` are keys of its configuration."""
    made = EngineConfig(engine="remote", upstreams=tuple(upstreams), **config)
    token = {"TEAM_TOKEN": "s3cret\n"}
    executor = RemoteExecutor(made, metrics or Metrics(), fallback, patience=patience, environment=token)
    executor.start()
    try:
        eventually(lambda: executor.vocabulary is not None or executor.state == "failed")
        yield executor
    finally:
        assert executor.stop(DEADLINE_S)


def asked(text: str = "def f():\n    ", **fields: Any) -> GenerationRequest:
    """A request with the defaults of HTTP."""
    usual: dict[str, Any] = {
        "max_tokens": 20,
        "stop": StopSpec(),
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    usual |= {"prompt": TextPrompt(text), "min_p": 0.0, "repetition_penalty": 1.0, "seed": 1}
    return GenerationRequest(**(usual | fields))
