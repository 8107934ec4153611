"""Who may ask: anybody who can open the Unix socket, and over TCP whoever has the token."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.api.problems import error_body

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """ASGI middleware that checks what comes over TCP: the bearer token, and that Host is loopback.

    A page in a browser can make requests to loopback under a name of its own (DNS rebinding): the
    Host header gives those away. A Unix socket is guarded by its folder's mode.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 403."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        await (problem or self._app)(scope, receive, send)

    def _problem(self, scope: Scope) -> JSONResponse | None:
        if _came_by_unix_socket(scope):
            return None
        headers = Headers(scope=scope)
        if _host_name(headers.get("host", "")) not in LOOPBACK:
            message = f"The Host header must be one of {', '.join(LOOPBACK)}."
            return JSONResponse(error_body(403, message, "permission_error"), 403)
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not self._token or not hmac.compare_digest(given, self._token.encode()):
            message = (
                "Send 'Authorization: Bearer TOKEN' with the token from engine.token in the runtime folder."
            )
            return JSONResponse(
                error_body(401, message, "authentication_error"), 401, {"WWW-Authenticate": "Bearer"}
            )
        return None


def _came_by_unix_socket(scope: Scope) -> bool:
    # ASGI: the server is (path, None) there and there is no client; over TCP it is (host, port).
    server = scope.get("server")
    return scope.get("client") is None and (server is None or server[1] is None)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
