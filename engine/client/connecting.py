"""Connections to an engine: httpx's, which stay open, and the standard library's for one question.

No proxy is asked and no redirect followed: what is sent is the user's code, and it goes where they said.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from engine.client.answers import no_answer
from engine.client.endpoint import Endpoint

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import httpx

MAX_ANSWER_BYTES = 1 << 20
"""Of one that is no stream. What answers at a port may be anything."""


def prepare() -> None:
    """Import what a first request would wait for, longer than for its answer: for a thread, meanwhile."""
    # httpx goes without a command line of its own where it cannot be imported, and that is half of the time.
    sys.modules.setdefault("httpx._main", cast("ModuleType", None))
    import_module("httpx")


def connected(endpoint: Endpoint) -> httpx.Client:
    """Connections to `endpoint` that are kept open between requests."""
    prepare()
    import httpx

    transport = httpx.HTTPTransport(uds=_path(endpoint), verify=_tls(endpoint))
    return httpx.Client(transport=transport, **_manners(endpoint))


def connected_async(endpoint: Endpoint) -> httpx.AsyncClient:
    """`connected`, for an event loop."""
    prepare()
    import httpx

    transport = httpx.AsyncHTTPTransport(uds=_path(endpoint), verify=_tls(endpoint))
    return httpx.AsyncClient(transport=transport, **_manners(endpoint))


def ask(endpoint: Endpoint, method: str, path: str, timeout_s: float | None = None) -> tuple[int, bytes]:
    """One request and its answer, without httpx, which is slow to import. Raises EngineGone."""
    connection = _connection(endpoint, timeout_s or endpoint.connect_timeout_s)
    try:
        connection.request(method, path, headers=endpoint.headers)
        response = connection.getresponse()
        return response.status, response.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise no_answer(endpoint, error) from error
    finally:
        connection.close()


@contextmanager
def translated(endpoint: Endpoint) -> Generator[None]:
    """Turn httpx's errors into EngineGone. For who has connections, so that httpx is loaded."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise no_answer(endpoint, error) from error


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


def _path(endpoint: Endpoint) -> str | None:
    return str(endpoint.socket) if endpoint.socket else None


def _manners(endpoint: Endpoint) -> dict[str, Any]:
    import httpx

    return {
        "base_url": endpoint.base_url,
        "headers": endpoint.headers,
        "timeout": httpx.Timeout(None, connect=endpoint.connect_timeout_s),
        "trust_env": False,
        "follow_redirects": False,
    }


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    """What to check a certificate against: those that the system trusts."""
    if endpoint.base_url.startswith("https:"):
        return ssl.create_default_context()
    # No TLS is spoken. httpx would load every certificate authority to be ready for it, which takes longer
    # than connecting; a context that trusts nobody is made at once.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
