"""Talks to an engine: where it is, what it says of itself, and a stream of text from it. Torch-free.

Closing a stream is how a client cancels: the connection closes, and the engine stops before its next
layer. Nothing here starts an engine; `engine.launch` does. No proxy is asked and no redirect followed:
what is sent is the user's code, and it goes where they said.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

from engine.errors import EngineGone, EngineUnavailable, ProtocolMismatch, RequestError
from engine.protocol import (
    PROTOCOL_VERSION,
    UNLOAD_WAIT_S,
    Health,
    UmbrellaReply,
    UmbrellaRequest,
    WorkspacePush,
)
from engine.schema import SchemaError, read

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import httpx

T = TypeVar("T")

CONNECT_TIMEOUT_S = 2.0
REMOTE_CONNECT_TIMEOUT_S = 10.0
"""For an engine elsewhere: half the world may lie between."""
MAX_ANSWER_BYTES = 1 << 20
"""Of one that is no stream. What answers at a port may be anything."""
_RESTART = "Send the request again to have it started, or run `umbrella-engine status`."
_LOOK_THERE = "Check that an engine runs there, and that the setting umbrella.engine.url is right."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a Unix socket, a loopback port with a bearer token, or a URL."""

    socket: Path | None = None
    port: int = 0
    token: str = field(default="", repr=False)
    notice: str = ""
    """Something the user should be told once, such as that another configuration is running."""
    url: str = ""
    """How the user names an engine that is used as it is: ``http:``, ``https:``, or ``unix:`` for `socket`.
    '' for their own, which clients start and may end."""

    @property
    def base_url(self) -> str:
        """The URL that requests are relative to; over a Unix socket its host means nothing."""
        if self.socket:
            return "http://localhost"
        return self.url or f"http://127.0.0.1:{self.port}"

    @property
    def connect_timeout_s(self) -> float:
        """How long connecting may take."""
        return REMOTE_CONNECT_TIMEOUT_S if self.url else CONNECT_TIMEOUT_S

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
        with _translated(self.endpoint):
            async with connections.stream("POST", "/infill", content=call.body()) as response:
                if response.status_code != 200:
                    _refuse(self.endpoint, response.status_code, await response.aread())
                final = False
                async for data in _events(response.aiter_lines()):
                    event = _stream_event(self.endpoint, data)
                    final = event.final
                    yield event
        if not final:
            raise EngineGone(f"The engine ended a stream early. {_advice(self.endpoint)}")

    async def health(self) -> Health:
        """What the engine says of itself."""
        connections = await self._connections()
        with _translated(self.endpoint):
            response = await connections.get("/health")
        return _read_health(self.endpoint, response.status_code, response.content)

    async def push_workspace(self, push: WorkspacePush) -> None:
        """Give the engine text to draft from. It takes it in later, and forgets it when it ends."""
        connections = await self._connections()
        with _translated(self.endpoint):
            response = await connections.post("/workspace", content=msgspec.json.encode(push))
        if response.status_code != 202:
            _refuse(self.endpoint, response.status_code, response.content)

    async def ended(self) -> None:
        """Wait until the engine has ended. It is asked nothing: its end closes what is open.

        Only for this user's own: what stands between us and another may close a connection at any time.
        """
        place = self.endpoint
        with suppress(OSError):
            reader, writer = await (
                asyncio.open_unix_connection(place.socket)
                if place.socket
                else asyncio.open_connection("127.0.0.1", place.port)
            )
            try:
                await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()

    async def aclose(self) -> None:
        """Close kept connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _connections(self) -> httpx.AsyncClient:
        if self._http is None:
            # On a thread: a language server goes on answering meanwhile.
            made = await asyncio.to_thread(_connected, self.endpoint)
            self._http = self._http or made
        return self._http


def fetch_health(endpoint: Endpoint, timeout_s: float | None = None) -> Health:
    """`EngineClient.health` for code that has no event loop."""
    return _read_health(endpoint, *_ask(endpoint, "GET", "/health", timeout_s))


def ask_to_drain(endpoint: Endpoint, timeout_s: float | None = None) -> None:
    """Ask the engine to finish what it has begun, take nothing new, and end."""
    status, data = _ask(endpoint, "POST", "/drain", timeout_s)
    if status != 202:
        _refuse(endpoint, status, data)


def ask_to_unload(endpoint: Endpoint) -> bool:
    """Ask the engine to give its models' memory back, and to go on without them until the next request.

    False where it will be once the engine has finished what it has begun.
    """
    status, data = _ask(endpoint, "POST", "/unload", UNLOAD_WAIT_S + CONNECT_TIMEOUT_S)
    if status not in (200, 202):
        _refuse(endpoint, status, data)
    return status == 200


def prepare() -> None:
    """Import what a first request would wait for, longer than for its answer: for a thread, meanwhile."""
    # httpx goes without a command line of its own where it cannot be imported, and that is half of the time.
    sys.modules.setdefault("httpx._main", cast("ModuleType", None))
    import_module("httpx")


def _connected(endpoint: Endpoint) -> httpx.AsyncClient:
    prepare()
    import httpx

    socket = endpoint.socket
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(socket) if socket else None, verify=_tls(endpoint)),
        base_url=endpoint.base_url,
        headers=endpoint.headers,
        timeout=httpx.Timeout(None, connect=endpoint.connect_timeout_s),
        trust_env=False,
        follow_redirects=False,
    )


class _UnixConnection(http.client.HTTPConnection):
    """A connection of the standard library's over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _connection(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    if endpoint.socket:
        return _UnixConnection(endpoint.socket, timeout_s)
    place = urlsplit(endpoint.base_url)
    host = place.hostname or ""
    if place.scheme == "https":
        return http.client.HTTPSConnection(host, place.port, timeout=timeout_s, context=_tls(endpoint))
    return http.client.HTTPConnection(host, place.port, timeout=timeout_s)


def _ask(endpoint: Endpoint, method: str, path: str, timeout_s: float | None) -> tuple[int, bytes]:
    """One request and its answer, without httpx, which is slow to import."""
    connection = _connection(endpoint, timeout_s or endpoint.connect_timeout_s)
    try:
        connection.request(method, path, headers=endpoint.headers)
        response = connection.getresponse()
        return response.status, response.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(endpoint, error) from error
    finally:
        connection.close()


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    """What to check a certificate against: those that the system trusts."""
    if endpoint.base_url.startswith("https:"):
        return ssl.create_default_context()
    # No TLS is spoken. httpx would load every certificate authority to be ready for it, which takes longer
    # than connecting; a context that trusts nobody is made at once.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def _translated(endpoint: Endpoint) -> Generator[None]:
    import httpx  # Loaded by then: see `_connected`.

    try:
        yield
    except httpx.HTTPError as error:
        raise _no_answer(endpoint, error) from error


def _advice(endpoint: Endpoint) -> str:
    return _LOOK_THERE if endpoint.url else _RESTART


def _no_answer(endpoint: Endpoint, error: Exception) -> EngineGone:
    """What to say where nothing of HTTP came back."""
    url, kind = endpoint.url, type(error).__name__
    problem = _tls_problem(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        why = problem.verify_message.rstrip(".")
        return EngineGone(
            f"The certificate of {url} is not trusted: {why}. Have the system trust who signed it, or "
            "name the host that it is for in the setting umbrella.engine.url."
        )
    if problem is not None:
        return EngineGone(f"TLS with {url} fails ({problem.reason or kind}). {_LOOK_THERE}")
    return EngineGone(f"No engine answers{f' at {url}' if url else ''} ({kind}). {_advice(endpoint)}")


def _tls_problem(error: BaseException | None) -> ssl.SSLError | None:
    """The problem of TLS that `error` comes from, if there is one."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """The data of server-sent events; this engine sends one line of it each."""
    async for line in lines:
        if line.startswith("data: "):
            yield line.removeprefix("data: ").encode()


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        value = None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _read(endpoint: Endpoint, cls: type[T], data: object, where: str) -> T:
    try:
        return read(cls, data, where=where)
    except SchemaError as error:
        advice = _LOOK_THERE if endpoint.url else "Run `umbrella-engine stop` and try again."
        raise ProtocolMismatch(
            f"The engine's answer makes no sense to this version ({error}). {advice}"
        ) from error


def _stream_event(endpoint: Endpoint, data: bytes) -> StreamEvent:
    event = _object(data)
    if "error" in event:
        _refuse(endpoint, 500, data)
    reply = _read(endpoint, UmbrellaReply, event.get("umbrella"), "umbrella")
    text = event.get("content")
    return StreamEvent(text if isinstance(text, str) else "", reply, bool(event.get("stop")))


def _read_health(endpoint: Endpoint, status: int, data: bytes) -> Health:
    if status != 200:
        _refuse(endpoint, status, data)
    body = _object(data)
    if body.get("protocol", PROTOCOL_VERSION) != PROTOCOL_VERSION:
        # Only the fields needed to replace it are relied on: everything else may have changed.
        body = {"state": "ready", "progress": 1.0, "package": "", "config_hash": "", "pid": 0} | {
            name: body[name] for name in ("protocol", "package", "pid") if name in body
        }
    return _read(endpoint, Health, body, "health")


def _refuse(endpoint: Endpoint, status: int, data: bytes) -> NoReturn:
    found = _object(data).get("error")
    error = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    who = endpoint.url or "The engine"
    message = str(error.get("message") or f"{who} answered with HTTP status {status}. {_advice(endpoint)}")
    if status in (400, 413, 422):
        raise RequestError(message, str(error.get("param") or ""))
    if status == 401:
        # Each engine makes a token of its own: the one that we had may be its predecessor's.
        raise EngineGone(_wants_token(endpoint) if endpoint.url else message)
    if status == 403 and endpoint.url:
        raise EngineUnavailable(
            f"{endpoint.url} refuses to serve this machine (HTTP status 403). An engine answers to localhost "
            "only: go through an SSH tunnel, or have the proxy before it send that as Host."
        )
    raise EngineUnavailable(message)


def _wants_token(endpoint: Endpoint) -> str:
    advice = (
        "Name the file that holds its token, a copy of engine.token in its runtime folder, in the setting "
        "umbrella.engine.token_file."
    )
    verdict = "does not accept the token" if endpoint.token else "wants a token"
    return f"{endpoint.url} {verdict} (HTTP status 401). {advice}"
