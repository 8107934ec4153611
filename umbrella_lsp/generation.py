"""One text of the engine's on its way into memory. Outlives the request that began it.

Knows nothing of requests: whoever waits is told that there is news, and looks into `memory` for what it
means to them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from engine.client import InfillCall, StreamEvent
from engine.protocol import SegmentFate, StopReason, Timings, TokenCounts
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.document import Document
from umbrella_lsp.errors import UmbrellaError
from umbrella_lsp.fit.postprocess import fitted
from umbrella_lsp.fit.stop import Extent, first_part, is_done
from umbrella_lsp.memory import Anchor, Made, Memory
from umbrella_lsp.syntax.facts import CursorSyntax, InsertedSyntax

Stop = StopReason | Literal["complete"]
"""Why a text ends where it does: the engine's reason, or ours for not reading on."""
_CUT_SHORT = (StopReason.LENGTH, StopReason.DEADLINE, None)


class Engine(Protocol):
    """Where text comes from; `link.EngineLink` is one."""

    def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        """Stream text for `call` until closed. Raises EngineUnavailable and RequestError."""
        ...


class Syntax(Protocol):
    """What knows the syntax of documents, and of text that is not there yet; `SyntaxClient` is one."""

    async def at(self, document: Document, offset: int) -> CursorSyntax | None:
        """What surrounds a cursor; None if it cannot be told in time."""
        ...

    async def inserted(self, document: Document, start: int, end: int, text: str) -> InsertedSyntax | None:
        """What `text` is in the place of what lies between two offsets; None if it cannot be told in time."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor, what the engine is shown of its surroundings, and how much is wanted there."""

    document: Document
    offset: int
    context: CompletionContext
    extent: Extent


@dataclass(slots=True)
class _Growing:
    """A text as it comes, unchanged."""

    raw: str = ""
    marks: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    stop: Stop | None = None

    def take(self, event: StreamEvent) -> None:
        self.raw += event.text
        self.stop = event.reply.stop
        self.marks += zip(event.reply.text_offsets, event.reply.logprobs, strict=False)

    def settled(self, extent: Extent) -> str:
        """What of it may be shown: all of it once it is over, until then whole lines."""
        whole_lines = self.raw[: self.raw.rfind("\n") + 1]
        if self.stop is None:
            return whole_lines if first_part(self.raw, extent) else ""
        is_cut = self.stop in _CUT_SHORT and extent.is_block and first_part(self.raw, extent)
        return whole_lines if is_cut else self.raw


class Generation:
    """Reads one stream in the background. Used from one event loop.

    What it makes goes into `entry` of the memory, line by line.
    """

    def __init__(
        self,
        place: Place,
        call: InfillCall,
        engine: Engine,
        syntax: Syntax,
        memory: Memory,
        ended: Callable[[Generation], None],
    ) -> None:
        """`ended` is called once it is over, however that came."""
        self.place = place
        self.anchor = Anchor.at(place.document, place.offset)
        self.call = call
        self.entry = memory.entry(self.anchor, call.umbrella.tier)
        self.over = False
        self.error: UmbrellaError | None = None
        """What ended it, if something did."""
        self.waiting = 0
        """Requests that wait for its news."""
        self.timings = Timings()
        self.tokens = TokenCounts()
        self.fates: tuple[SegmentFate, ...] = ()
        self.stop: Stop | None = None
        self.fit_ms = 0.0
        """Spent on fitting texts to their place, rather than on waiting for them."""
        self._engine = engine
        self._syntax = syntax
        self._memory = memory
        self._ended = ended
        self._texts: dict[int, _Growing] = {}
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def raw(self) -> str:
        """The main text as it came."""
        return self._texts[0].raw if 0 in self._texts else ""

    def agrees(self, document: Document, offset: int) -> bool:
        """Whether what has been typed up to `offset` may yet turn out to be what it says."""
        run = self.anchor.run_to(document, offset)
        return run is not None and self._may_say(run.typed)

    def leads_to(self, document: Document) -> bool:
        """Whether `document`, wherever its cursor is, may be on the way to what it says."""
        return any(self._may_say(run.typed) for run in self.anchor.runs(document))

    def _may_say(self, typed: str) -> bool:
        if not self._texts:
            return not self.over
        said = [(text.raw, text.stop is not None) for text in self._texts.values()]
        said += [(made.fitted.text, self.over) for made in self.entry.texts.values()]
        return any(
            text.startswith(typed) or (not is_over and typed.startswith(text)) for text, is_over in said
        )

    async def news(self) -> None:
        """Return when there is more text than at the call, or it is over."""
        if self.over:
            return
        self.waiting += 1
        try:
            await self._news.wait()
        finally:
            self.waiting -= 1

    def cancel(self) -> None:
        """Close the stream, which frees the engine. What came of whole lines stays in memory."""
        self._task.cancel()
        self._end()

    async def _run(self) -> None:
        try:
            async with aclosing(self._engine.infill(self.call)) as events:
                async for event in events:
                    if await self._take(event):
                        break
                    self._tell()
            self.entry.is_final = True
        except UmbrellaError as error:
            self.error = error
        finally:
            self._end()

    def _end(self) -> None:
        if self.over:
            return
        self.over = True
        self._ended(self)
        if not self.entry.is_final and not self.entry.texts:
            self._memory.forget(self.entry)
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _take(self, event: StreamEvent) -> bool:
        """Take in one event. True if no more is wanted."""
        reply = event.reply
        growing = self._texts.setdefault(reply.index, _Growing())
        growing.take(event)
        self.timings, self.tokens = reply.timings, reply.tokens
        self.fates = self.fates or reply.segments
        if reply.stop is None and "\n" not in event.text:
            return False
        started = time.perf_counter()
        text = growing.settled(self.place.extent)
        is_complete = bool(text) and await self._fit(reply.index, growing, text)
        self.fit_ms += (time.perf_counter() - started) * 1000
        if reply.index == 0:
            self.stop = reply.stop or ("complete" if is_complete else None)
        return is_complete and reply.stop is None and self.call.umbrella.n == 1

    async def _fit(self, index: int, growing: _Growing, text: str) -> bool:
        """Remember what is worth showing of `text`. True if nothing more is wanted of it."""
        place = self.place
        inserted = await self._syntax.inserted(place.document, place.offset, place.offset, text)
        fit = fitted(text, place.context, place.extent, inserted)
        others = [made.fitted for number, made in self.entry.texts.items() if number != index]
        if fit.text and fit not in others:
            self.entry.texts[index] = Made(fit, tuple(growing.marks))
        return is_done(place.context, place.extent, text, inserted)
