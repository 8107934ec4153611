"""Who may ask: anybody who can open the Unix socket, and over TCP whoever has the token."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.api.problems import Problem
from engine.doors import LOOPBACK

_TWO_LENGTHS = "Send Content-Length or Transfer-Encoding: a proxy may take the other one for the body's end."


class Guard:
    """ASGI middleware that checks what comes over TCP: Host, that no web page asks, and the bearer token.

    A page in a browser can make requests to loopback, even under a name of its own (DNS rebinding): the
    Host header gives those away. What is no plain link or image has an Origin header too, which programs do
    not send; none is welcome, so a browser's preflight is refused, and no answer says that a page may read
    it. A Unix socket is guarded by its folder's mode.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: tuple[str, ...] = LOOPBACK) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 403."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        await (problem.response(scope["path"]) if problem else self._app)(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        if _came_by_unix_socket(scope):
            return None
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            return Problem(400, _TWO_LENGTHS, headers=(("Connection", "close"),))
        if _host_name(headers.get("host", "")) not in self._hosts:
            return _forbidden(
                f"The Host header must be one of {', '.join(dict.fromkeys(self._hosts))}. Start the engine "
                "with --allow-remote NAME to be asked by another name."
            )
        if "origin" in headers:
            return _forbidden(
                "Requests of web pages are refused, which the Origin header gives away. Have a program ask."
            )
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_known = hmac.compare_digest(given.strip().encode(), self._token.encode())
        if not self._token or scheme.lower() != "bearer" or not is_known:
            message = (
                "Send 'Authorization: Bearer TOKEN' with the token from engine.token in the runtime folder."
            )
            wants = (("WWW-Authenticate", "Bearer"),)
            return Problem(401, message, "authentication_error", code="invalid_api_key", headers=wants)
        return None


def _forbidden(message: str) -> Problem:
    return Problem(403, message, "permission_error")


def _came_by_unix_socket(scope: Scope) -> bool:
    # ASGI: the server is (path, None) there and there is no client; over TCP it is (host, port).
    server = scope.get("server")
    return scope.get("client") is None and (server is None or server[1] is None)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
