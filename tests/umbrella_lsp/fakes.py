"""Engines that say what a test has written for them, in this process and without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from engine.client import InfillCall, StreamEvent
from engine.protocol import StopReason, Timings, TokenCounts, UmbrellaReply
from umbrella_lsp.document import Document
from umbrella_lsp.syntax.facts import CursorSyntax, InsertedSyntax

COUNTS = TokenCounts(prompt=50, reused=40, generated=2, drafted=7, accepted=5, target_passes=3)
TIMINGS = Timings(queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0, total_ms=6.0)


def piece(
    text: str,
    *,
    stop: StopReason | None = None,
    index: int = 0,
    tokens: tuple[tuple[int, float], ...] = (),
    final: bool = False,
) -> StreamEvent:
    """One event of a stream; of its `tokens`, where each begins in the whole text and its log-probability."""
    offsets, logprobs = tuple(at for at, _ in tokens), tuple(logprob for _, logprob in tokens)
    reply = UmbrellaReply(TIMINGS, COUNTS, index=index, logprobs=logprobs, text_offsets=offsets, stop=stop)
    return StreamEvent(text, reply, final)


def events(*pieces: str, stop: StopReason = StopReason.END) -> list[StreamEvent]:
    """One stream: its pieces, and an event that ends it."""
    return [*map(piece, pieces), piece("", stop=stop, final=True)]


class NoSyntax:
    """A syntax that knows no language."""

    async def at(self, document: Document, offset: int) -> CursorSyntax | None:
        return None

    async def inserted(self, document: Document, start: int, end: int, text: str) -> InsertedSyntax | None:
        return None


@dataclass
class ScriptedStreams:
    """Answers in order, the last one for ever; an exception among the events is raised in its place."""

    script: list[list[StreamEvent | Exception]]
    is_held: bool = False
    """Streams never end: after their events they wait until they are closed."""
    calls: list[InfillCall] = field(default_factory=list)
    read: int = 0
    """Events that were taken from any stream."""
    closed: int = 0

    async def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        self.calls.append(call)
        line = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        try:
            for event in line:
                if isinstance(event, Exception):
                    raise event
                self.read += 1
                yield event
            if self.is_held:
                await asyncio.Event().wait()
        finally:
            self.closed += 1


def saying(*pieces: str, stop: StopReason = StopReason.END) -> ScriptedStreams:
    return ScriptedStreams([[*events(*pieces, stop=stop)]])


class Stream:
    """A stream that a test speaks into while it is read."""

    def __init__(self, call: InfillCall) -> None:
        self.call = call
        self.is_closed = False
        self._events: asyncio.Queue[StreamEvent] = asyncio.Queue()

    def say(self, text: str, *, index: int = 0) -> None:
        self._events.put_nowait(piece(text, index=index))

    def end(self, text: str = "", stop: StopReason = StopReason.END) -> None:
        self._events.put_nowait(piece(text, stop=stop, final=True))

    async def read(self) -> AsyncGenerator[StreamEvent]:
        try:
            while True:
                event = await self._events.get()
                yield event
                if event.final:
                    return
        finally:
            self.is_closed = True


class Dialogue:
    """An engine whose every stream is spoken into by the test."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    async def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        stream = Stream(call)
        self.streams.append(stream)
        async for event in stream.read():
            yield event

    @property
    def last(self) -> Stream:
        return self.streams[-1]
