"""Talks to an engine: where it is, what it says of itself, and a stream of text from it. Torch-free.

Closing a stream is how a client cancels: the connection closes, and the engine stops before its next
layer. Nothing here starts an engine; `engine.launch` does.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from engine.errors import EngineGone, EngineUnavailable, ProtocolMismatch, RequestError
from engine.protocol import PROTOCOL_VERSION, Health, UmbrellaReply, UmbrellaRequest, WorkspacePush
from engine.schema import SchemaError, read

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

T = TypeVar("T")

CONNECT_TIMEOUT_S = 2.0
_RESTART = "Send the request again to have it started, or run `umbrella-engine status`."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a Unix socket, or a loopback port with a bearer token."""

    socket: Path | None = None
    port: int = 0
    token: str = field(default="", repr=False)
    notice: str = ""
    """Something the user should be told once, such as that another configuration is running."""

    @property
    def base_url(self) -> str:
        """The URL that requests are relative to; over a Unix socket its host means nothing."""
        return "http://localhost" if self.socket else f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@dataclass(frozen=True, slots=True)
class InfillCall:
    """One request for text at a cursor. None leaves a choice to the engine's configuration."""

    prefix: str = ""
    """Text before the cursor; empty if `umbrella.segments` holds it."""
    suffix: str = ""
    umbrella: UmbrellaRequest = field(default_factory=UmbrellaRequest)
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    t_max_predict_ms: float | None = None

    def body(self) -> bytes:
        """The JSON body of a streamed ``POST /infill``."""
        values = {
            "input_prefix": self.prefix,
            "input_suffix": self.suffix,
            "n_predict": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "t_max_predict_ms": self.t_max_predict_ms,
        }
        sent: dict[str, object] = {name: value for name, value in values.items() if value is not None}
        return msgspec.json.encode({**sent, "stream": True, "umbrella": self.umbrella})


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Text that follows what came before it, with everything known so far."""

    text: str
    reply: UmbrellaReply
    final: bool


class EngineClient:
    """Requests to one endpoint, over connections that are kept open between them.

    Every method raises EngineGone if no engine answers or it breaks off, another EngineUnavailable if it
    cannot serve this request now, and RequestError if it refuses the request as it is.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http: httpx.AsyncClient | None = None

    async def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        """Stream text for `call`. Closing the iterator cancels it in the engine.

        Waits as long as the engine does, which while a model loads is seconds; use
        `asyncio.timeout` around it.
        """
        connections = await self._connections()
        with _translated():
            async with connections.stream("POST", "/infill", content=call.body()) as response:
                if response.status_code != 200:
                    _refuse(response.status_code, await response.aread())
                final = False
                async for data in _events(response.aiter_lines()):
                    event = _stream_event(data)
                    final = event.final
                    yield event
        if not final:
            raise EngineGone(f"The engine ended a stream early. {_RESTART}")

    async def health(self) -> Health:
        """What the engine says of itself."""
        connections = await self._connections()
        with _translated():
            response = await connections.get("/health")
        return _read_health(response.status_code, response.content)

    async def push_workspace(self, push: WorkspacePush) -> None:
        """Give the engine text to draft from. It takes it in later, and forgets it when it ends."""
        connections = await self._connections()
        with _translated():
            response = await connections.post("/workspace", content=msgspec.json.encode(push))
        if response.status_code != 202:
            _refuse(response.status_code, response.content)

    async def aclose(self) -> None:
        """Close kept connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _connections(self) -> httpx.AsyncClient:
        if self._http is None:
            # Deferred, and on a thread: it costs more to import than all else a client does before its
            # first request. A language server answers `initialize` first, and goes on answering meanwhile.
            await asyncio.to_thread(import_module, "httpx")
            self._http = self._http or self._connected()
        return self._http

    def _connected(self) -> httpx.AsyncClient:
        import httpx

        socket = self.endpoint.socket
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket) if socket else None, verify=_no_tls()),
            base_url=self.endpoint.base_url,
            headers=self.endpoint.headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )


def fetch_health(endpoint: Endpoint, timeout_s: float = CONNECT_TIMEOUT_S) -> Health:
    """`EngineClient.health` for code that has no event loop."""
    return _read_health(*_ask(endpoint, "GET", "/health", timeout_s))


def ask_to_drain(endpoint: Endpoint, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Ask the engine to finish what it has begun, take nothing new, and end."""
    status, data = _ask(endpoint, "POST", "/drain", timeout_s)
    if status != 202:
        _refuse(status, data)


class _Connection(http.client.HTTPConnection):
    """A connection of the standard library's, over a Unix socket where the endpoint is one."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        super().__init__("127.0.0.1", endpoint.port or None, timeout=timeout_s)
        self._path = endpoint.socket

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(endpoint: Endpoint, method: str, path: str, timeout_s: float) -> tuple[int, bytes]:
    """One request and its answer, without httpx, which is slow to import."""
    connection = _Connection(endpoint, timeout_s)
    try:
        connection.request(method, path, headers=endpoint.headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineGone(f"No engine answers ({type(error).__name__}). {_RESTART}") from error
    finally:
        connection.close()


def _no_tls() -> ssl.SSLContext:
    # The engine never speaks TLS. httpx would load every certificate authority to be ready for it,
    # which takes longer than connecting; a context that trusts nobody is made at once.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def _translated() -> Generator[None]:
    import httpx  # Loaded by then: see EngineClient._connections.

    try:
        yield
    except httpx.HTTPError as error:
        raise EngineGone(f"No engine answers ({type(error).__name__}). {_RESTART}") from error


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """The data of server-sent events; this engine sends one line of it each."""
    async for line in lines:
        if line.startswith("data: "):
            yield line.removeprefix("data: ").encode()


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        value = None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _read(cls: type[T], data: object, where: str) -> T:
    try:
        return read(cls, data, where=where)
    except SchemaError as error:
        raise ProtocolMismatch(
            f"The engine's answer makes no sense to this version ({error}). Run `umbrella-engine stop` "
            "and try again."
        ) from error


def _stream_event(data: bytes) -> StreamEvent:
    event = _object(data)
    if "error" in event:
        _refuse(500, data)
    reply = _read(UmbrellaReply, event.get("umbrella"), "umbrella")
    text = event.get("content")
    return StreamEvent(text if isinstance(text, str) else "", reply, bool(event.get("stop")))


def _read_health(status: int, data: bytes) -> Health:
    if status != 200:
        _refuse(status, data)
    body = _object(data)
    if body.get("protocol", PROTOCOL_VERSION) != PROTOCOL_VERSION:
        # Only the fields needed to replace it are relied on: everything else may have changed.
        body = {"state": "ready", "progress": 1.0, "package": "", "config_hash": "", "pid": 0} | {
            name: body[name] for name in ("protocol", "package", "pid") if name in body
        }
    return _read(Health, body, "health")


def _refuse(status: int, data: bytes) -> None:
    found = _object(data).get("error")
    error = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    message = str(error.get("message") or f"The engine answered with HTTP status {status}. {_RESTART}")
    if status in (400, 413, 422):
        raise RequestError(message, str(error.get("param") or ""))
    raise EngineUnavailable(message)
