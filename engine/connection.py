"""One client's connection: uvicorn's, that ends where a client makes it wait or takes too much.

uvicorn waits for ever for a request's headers and body. What is refused before it has become
a request is answered in the shape that llama-server gives errors, whatever its path will have been.
"""

from __future__ import annotations

import asyncio
import http
import json
from dataclasses import dataclass, field
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from engine.api.problems import Problem
from engine.doors import Door

LINGER_S = 1.0
"""How long a client has to read why it is turned away."""


class Connection(H11Protocol):
    """A connection within its door's limits."""

    def __init__(self, visitors: Visitors, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._visitors = visitors
        self._limits = visitors.door.limits
        self._clock: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._owed: str | None = None
        """What the clock runs for."""
        self._received = 0
        """Bytes, since the client began to owe it."""
        self._is_over = False
        """Whether nothing that comes matters any more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, or turn it away where there are too many."""
        super().connection_made(transport)
        if len(self._visitors.inside) >= self._limits.connections:
            self._refuse(503, "Too many connections are open. Close some, and try again in a moment.")
            return
        self._visitors.inside.add(self)
        self._await("head", self._limits.silent_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        self._visitors.inside.discard(self)
        self._await(None)
        self._is_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, and see what is still to come."""
        if self._is_over:
            return
        if self._owed == "head" and self._received == 0:
            self._await("head", self._limits.head_s)
        super().data_received(data)
        self._watch()
        self._received += len(data)
        if self._owed == "body" and self._has_answered and self._received > self._limits.discarded_bytes:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._is_read()

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def eof_received(self) -> None:
        """The client will send no more. Over TCP that looks the same as its having gone: both are an end."""
        has_begun = self._owed == "head" and self._received > 0
        if not self._is_over and (has_begun or not self._has_answered):
            self._refuse(400, "The connection was closed for sending. Keep it open until the answer comes.")

    def on_response_complete(self) -> None:
        """Go on with the next request. Between two of them, uvicorn's own clock runs."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self._await(None)
        else:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or has headers beyond h11's 16 KB."""
        self._refuse(400, msg)

    @property
    def _has_answered(self) -> bool:
        """Whether no request is being served."""
        # None before the first, whatever uvicorn declares.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _watch(self) -> None:
        """Have the clock run for what the client owes us now."""
        if self._is_over:
            return
        state = self.conn.their_state
        owed = "head" if state is h11.IDLE else "body" if state is h11.SEND_BODY else None
        if owed != self._owed:
            self._await(owed, self._limits.head_s if owed == "head" else self._limits.body_s)

    def _await(self, owed: str | None, within_s: float | None = None) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if owed != self._owed:
            self._received = 0
        self._owed = owed
        if owed is not None and within_s is not None:
            self._clock = self.loop.call_later(within_s, self._too_slow)

    def _too_slow(self) -> None:
        if self._received == 0 and self._owed == "head":
            self.transport.close()  # It has asked for nothing.
        elif self._owed == "body" and self._has_answered:
            self.transport.abort()
        else:
            self._refuse(408, "The request did not arrive in time. Send it in one go.")

    def _refuse(self, status: int, message: str) -> None:
        """Say why and close, or only close where an answer has begun."""
        self._is_over = True
        self._await(None)
        serving = None if self._has_answered else self.cycle
        if serving is not None:
            serving.disconnected = True
            serving.message_event.set()
            if serving.response_started:
                self.transport.abort()
                return
        path = serving.scope["path"] if serving else ""
        kind = "overloaded_error" if status == 503 else "invalid_request_error"
        body = json.dumps(Problem(status, message, kind).body_at(path)).encode()
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            # Closing at once, with unread bytes, would have the kernel throw away what we have just said.
            self.transport.write_eof()
            self._clock = self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            self.transport.close()


@dataclass(slots=True)
class Visitors:
    """Who is in by one door."""

    door: Door
    inside: set[Connection] = field(default_factory=set[Connection])
