"""One generation on its way through servers elsewhere."""

from __future__ import annotations

import asyncio

from engine.errors import UmbrellaError
from engine.jobs import RANKS, Chunk, Deliver, Ending, now_ms
from engine.protocol import StopReason, Timings, TokenCounts
from engine.remote.answer import RemoteAnswer
from engine.request import GenerationRequest


class RemoteJob:
    """A request, who wants its text, and how far it has come."""

    def __init__(self, request: GenerationRequest, deliver: Deliver, sequence: int) -> None:
        self.request = request
        self._deliver = deliver
        self.key = (RANKS[request.priority, request.tier], sequence)
        """How urgent it is, and when it came."""
        self.accepted_ms = now_ms()
        self.task: asyncio.Task[Chunk | None] | None = None
        self.answer: RemoteAnswer | None = None
        self.is_waiting = True
        """Whether nobody is asked."""
        self.is_cancelled = False
        self.over = False
        """Whether its last chunk or its error has been delivered."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"#{self.key[1]}"

    def interrupt(self) -> None:
        """End it where it stands. On the loop's thread, like all that follows."""
        if self.task is not None:
            self.task.cancel()

    def deliver(self, news: Chunk | UmbrellaError) -> None:
        """Hand out what has come, unless it is over already."""
        if not self.over:
            self.over = isinstance(news, UmbrellaError) or news.over
            self._deliver(news)

    def cancelled(self) -> Chunk:
        """Its last chunk, where nobody waits for more."""
        if self.answer is not None:
            return self.answer.cancelled(now_ms())
        waited_ms = now_ms() - self.accepted_ms
        timings = Timings(queue_ms=waited_ms, total_ms=waited_ms)
        return Chunk("", (), TokenCounts(), timings, Ending(StopReason.CANCELLED))
