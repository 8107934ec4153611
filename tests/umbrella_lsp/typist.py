"""A user at an editor with one document, in front of an engine whose every word the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.umbrella_lsp.cursor import CURSOR
from tests.umbrella_lsp.fakes import Dialogue, NoSyntax, Stream
from tests.umbrella_lsp.waiting import PATIENCE_S, until
from umbrella_lsp.completer import Completer
from umbrella_lsp.document import Document
from umbrella_lsp.outcome import Outcome
from umbrella_lsp.pace import Speed, Speedometer
from umbrella_lsp.settings import Settings

URI = "file:///home/someone/app.py"


class Typist:
    """An editor with one document, whose states a test writes down with the cursor in them."""

    def __init__(self, speed: Speed | None = None) -> None:
        self.engine = Dialogue()
        self.better: list[str] = []
        self.completer = Completer(
            self.engine,
            NoSyntax(),
            settings=Settings(min_confidence=0.0),
            speed=Speedometer(speed),
            better=self.better.append,
        )
        self.document = Document.of(URI, "", "python", 0)
        self.offset = 0

    def types(self, marked: str) -> None:
        """The document becomes what `marked` shows."""
        before, after = marked.split(CURSOR)
        version = (self.document.version or 0) + 1
        self.document, self.offset = Document.of(URI, before + after, "python", version), len(before)
        self.completer.changed(self.document)

    def asks(self, *, invoked: bool = False) -> asyncio.Task[Outcome]:
        work = self.completer.complete(
            self.document, self.offset, invoked=invoked, latest=lambda: self.document
        )
        return asyncio.create_task(work)

    async def stream(self, number: int) -> Stream:
        """The engine's stream of that number, counted from 1, once it was asked for."""
        await until(lambda: len(self.engine.streams) >= number)
        return self.engine.streams[number - 1]

    async def shown(self, marked: str, *pieces: str) -> Outcome:
        """`pieces` are suggested at the cursor of `marked`."""
        self.types(marked)
        asked = self.asks()
        stream = await self.stream(len(self.engine.streams) + 1)
        for text in pieces:
            stream.say(text)
        stream.end()
        return await asked


def text_of(outcome: Outcome) -> str:
    return outcome.suggestion.text if outcome.suggestion else ""


Scenario = Callable[[Typist], Awaitable[None]]


def play(scenario: Scenario, speed: Speed | None = None) -> None:
    async def run() -> None:
        typist = Typist(speed)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scenario(typist)
        finally:
            typist.completer.close()

    asyncio.run(run())
