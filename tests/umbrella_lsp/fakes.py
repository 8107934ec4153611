"""Engines that say what a test has written for them, in this process and without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from engine.client import InfillCall, StreamEvent
from engine.protocol import StopReason, Timings, TokenCounts, UmbrellaReply


def events(*pieces: str, stop: StopReason = StopReason.END) -> list[StreamEvent]:
    """One stream: its pieces, and an event that ends it."""
    counts = TokenCounts(prompt=50, reused=40, generated=len(pieces), drafted=7, accepted=5, target_passes=3)
    timings = Timings(queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0, total_ms=6.0)
    texts = [StreamEvent(piece, UmbrellaReply(timings, counts), final=False) for piece in pieces]
    return [*texts, StreamEvent("", UmbrellaReply(timings, counts, stop=stop), final=True)]


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
