"""What editors ask of an engine: text at a cursor as it comes, and room for a workspace to draft from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from engine.client.answers import EventReader, ended_early, object_of, read_health, read_reply, refuse
from engine.client.connecting import connected_async, translated
from engine.client.endpoint import Endpoint
from engine.protocol import Health, UmbrellaReply, UmbrellaRequest, WorkspacePush

if TYPE_CHECKING:
    import httpx


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
        with translated(self.endpoint):
            async with connections.stream("POST", "/infill", content=call.body()) as response:
                if response.status_code != 200:
                    refuse(self.endpoint, response.status_code, await response.aread())
                final, reader = False, EventReader()
                async for piece in response.aiter_bytes():
                    for data in reader.feed(piece):
                        event = _stream_event(self.endpoint, data)
                        final = event.final
                        yield event
        if not final:
            raise ended_early(self.endpoint)

    async def health(self) -> Health:
        """What the engine says of itself."""
        connections = await self._connections()
        with translated(self.endpoint):
            response = await connections.get("/health")
        return read_health(self.endpoint, response.status_code, response.content)

    async def push_workspace(self, push: WorkspacePush) -> None:
        """Give the engine text to draft from. It takes it in later, and forgets it when it ends."""
        connections = await self._connections()
        with translated(self.endpoint):
            response = await connections.post("/workspace", content=msgspec.json.encode(push))
        if response.status_code != 202:
            refuse(self.endpoint, response.status_code, response.content)

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
            made = await asyncio.to_thread(connected_async, self.endpoint)
            self._http = self._http or made
        return self._http


def _stream_event(endpoint: Endpoint, data: bytes) -> StreamEvent:
    event = object_of(data)
    if "error" in event:
        refuse(endpoint, 500, data)
    text = event.get("content")
    return StreamEvent(
        text if isinstance(text, str) else "", read_reply(endpoint, event), bool(event.get("stop"))
    )
