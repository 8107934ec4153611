"""Whatever is typed, accepted, cancelled and said, in any order: answers fit, and nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client import InfillCall, StreamEvent
from engine.protocol import StopReason
from tests.umbrella_lsp.fakes import NoSyntax, piece
from tests.umbrella_lsp.waiting import PATIENCE_S
from umbrella_lsp.completer import Completer
from umbrella_lsp.document import Document
from umbrella_lsp.errors import EngineLost
from umbrella_lsp.outcome import Outcome, Selection, Suggestion
from umbrella_lsp.pace import Speed, Speedometer
from umbrella_lsp.settings import Settings
from umbrella_lsp.supersede import LatestOnly
from umbrella_lsp.syntax.facts import CursorSyntax

URIS = ("file:///home/someone/app.py", "untitled:Untitled-1")
WORDS = ("f", "fo", "foo(", "foo(a)\n", ")", "\n", "\n    ", "a😋", "f\nfo\n")
"""What is typed and what is said: so few that the two agree now and then."""
SPEEDS = (Speed(), Speed(1000.0, 20.0), Speed(1000.0))


class Voice:
    """One stream, which says what it is told to while it is read."""

    def __init__(self, call: InfillCall) -> None:
        self.call = call
        self.texts: dict[int, str] = {}
        self.is_closed = False
        self._events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()

    def say(self, text: str, index: int, *, final: bool) -> None:
        self.texts[index] = self.texts.get(index, "") + text
        stop = StopReason.END if final else None
        self._events.put_nowait(piece(text, index=index, stop=stop, final=final))

    def break_off(self) -> None:
        self._events.put_nowait(None)

    async def read(self) -> AsyncGenerator[StreamEvent]:
        try:
            final = False
            while not final:
                event = await self._events.get()
                if event is None:
                    raise EngineLost("gone")
                final = event.final
                yield event
        finally:
            self.is_closed = True


class Voices(NoSyntax):
    """An engine that says anything, and a syntax that only notes what is asked about."""

    def __init__(self) -> None:
        self.all: list[Voice] = []
        self.places: set[tuple[str, str]] = set()
        """What stood left and right of each cursor that the engine was to be asked about."""

    async def at(self, document: Document, offset: int) -> CursorSyntax | None:
        text = document.text
        self.places.add((plain(text[:offset]), plain(text[offset:])))
        await asyncio.sleep(0)
        return None

    async def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        voice = Voice(call)
        self.all.append(voice)
        async for event in voice.read():
            yield event

    def have_said(self, before: str, after: str) -> bool:
        """Whether a voice, asked what comes between the beginning of `before` and `after`, said the rest."""
        before, after = plain(before), plain(after)
        for voice in self.all:
            prefix = next(s.text for s in voice.call.umbrella.segments if s.kind == "prefix")
            if not before.startswith(prefix):
                continue
            here = without_blanks(before[len(prefix) :])
            said = any(here in without_blanks(text) for text in voice.texts.values())
            # An editor may have closed a bracket behind the cursor, which was not there when it was asked.
            ends = (after, after.removeprefix(")"), after.removeprefix("))"), after.removeprefix(")))"))
            if said and any((prefix, end) in self.places for end in ends):
                return True
        return False


def plain(text: str) -> str:
    return text.replace("\r\n", "\n")


def without_blanks(text: str) -> str:
    """Indentation is brought to the document's, and blanks at the ends of lines are dropped."""
    return "".join(text.split())


@dataclass
class View:
    """A document in the editor, its cursor, and what is shown there as ghost text."""

    document: Document
    cursor: int
    ghost: Suggestion | None = None


@dataclass(frozen=True)
class Act:
    """Something that happens."""

    name: str
    number: int
    word: str


class Window:
    """An editor that does as it is told and looks at every answer, with an engine that says anything."""

    def __init__(self, line_ending: str, speed: Speed) -> None:
        self.voices = Voices()
        self.completer = Completer(
            self.voices, self.voices, settings=Settings(min_confidence=0.0), speed=Speedometer(speed)
        )
        self.line_ending = line_ending
        self.views: dict[str, View] = {}
        self.requests: list[asyncio.Task[None]] = []
        self._latest = LatestOnly[None]()

    async def do(self, act: Act) -> None:
        uri = URIS[act.number == 5]
        if act.name == "turn":
            for _ in range(act.number):
                await asyncio.sleep(0)
        elif act.name in ("say", "end", "break"):
            self._speak(act)
        elif act.name == "settings":
            self.completer.configure(Settings(min_confidence=0.0, max_lines=1 + act.number), ())
        elif uri not in self.views:
            text = ("x = \n" + act.word).replace("\n", self.line_ending)
            self.views[uri] = View(Document.of(uri, text, "python", 0), 4)
        elif act.name == "suggest":
            for name in ("ask", "turn", "end", "turn"):
                await self.do(Act(name, 6, act.word))
        elif act.name in ("ask", "ask by hand", "ask from list"):
            self.requests.append(asyncio.create_task(self._ask(self.views[uri], act.name)))
            await asyncio.sleep(0)  # As a server's handler does, it looks at the document before it changes.
        elif act.name == "cancel" and self.requests:
            self.requests[act.number % len(self.requests)].cancel()
        elif act.name == "close":
            del self.views[uri]
            self._latest.supersede(uri)
            self.completer.closed(uri)
        else:
            self._edit(self.views[uri], act, act.word.replace("\n", self.line_ending))

    def _edit(self, view: View, act: Act, word: str) -> None:
        at, ghost = view.cursor, view.ghost
        if act.name == "type":
            self._change(view, at, at, word)
        elif act.name == "bracket":
            self._change(view, at, at, "()")
            view.cursor = at + 1
        elif act.name == "delete":
            start = max(0, at - 1 - act.number)
            is_split = view.document.text[:start].endswith("\r")  # No editor takes half a line ending.
            self._change(view, start - is_split, at, "")
        elif act.name == "edit elsewhere":
            end = len(view.document.content) if act.number % 2 else 0
            self._change(view, end, end, "# ")
            view.cursor = at if end else at + 2
        elif act.name == "accept" and ghost:
            self._change(view, ghost.start, ghost.end, ghost.text)
        elif act.name == "accept a part" and ghost:
            self._change(view, ghost.start, ghost.start, ghost.text[: 1 + act.number].rstrip("\r"))

    def _change(self, view: View, start: int, end: int, text: str) -> None:
        document = view.document.replaced(start, end, text)
        version = (document.version or 0) + 1
        view.document = Document(document.uri, document.content, document.language, version)
        view.cursor, view.ghost = start + len(text), None
        self.completer.changed(view.document)

    def _speak(self, act: Act) -> None:
        running = [voice for voice in self.voices.all if not voice.is_closed]
        if running:
            voice = running[-1 - act.number % len(running)]
            if act.name == "break":
                voice.break_off()
            else:
                index = act.number % voice.call.umbrella.n if voice.texts else 0
                voice.say(act.word, index, final=act.name == "end")

    async def _ask(self, view: View, how: str) -> None:
        document, at = view.document, view.cursor
        word = at - document.text[:at].endswith("f")
        selection = Selection(word, at, "foo") if how == "ask from list" else None

        def latest() -> Document | None:
            now = self.views.get(document.uri)
            return now.document if now else None

        async def answer() -> None:
            outcome = await self.completer.complete(
                document, at, selection, invoked=how == "ask by hand", latest=latest
            )
            self._look(outcome, document.uri, selection)

        with suppress(EngineLost):
            await self._latest.run(document.uri, answer())

    def _look(self, outcome: Outcome, uri: str, selection: Selection | None) -> None:
        """What is suggested is for the text as it is, at its cursor, and the engine has said it there."""
        if not outcome.suggestions:
            return
        view = self.views[uri]
        text = view.document.text
        for suggestion in outcome.suggestions:
            start, end = suggestion.start, suggestion.end
            assert outcome.document.text == text
            assert start == (selection.start if selection else view.cursor)
            assert suggestion.text
            assert text[max(start, view.cursor) : end].strip(")") == ""
            assert end <= len(text)
            begun = text[:start] + suggestion.text
            assert self.voices.have_said(begun, text[end:]), (text, suggestion)
        view.ghost = None if selection else outcome.suggestion

    async def end(self) -> None:
        """Let every request have its answer, then close everything."""
        while any(not request.done() for request in self.requests):
            for voice in self.voices.all:
                if not voice.is_closed:
                    voice.say("", 0, final=True)
            await asyncio.sleep(0)
        for request in self.requests:
            if not request.cancelled():
                request.result()
        self.completer.close()
        for _ in range(9):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [voice for voice in self.voices.all if not voice.is_closed] == []


ACTS = (
    *("type", "say", "end", "turn") * 3,
    *("ask", "suggest", "accept a part") * 5,
    *("accept", "bracket", "delete", "cancel", "edit elsewhere", "ask by hand", "ask from list", "break"),
    *("close", "settings"),
)


@pytest.fixture(autouse=True, scope="module")
def nothing_waits() -> Iterator[None]:
    """Pauses take a turn of the loop each, so that what is put off happens, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("umbrella_lsp.completer.NEXT_PAUSE_S", 0.0)
        patch.setattr("umbrella_lsp.completer.pause_ms", lambda *_: 0.0)
        patch.setattr("umbrella_lsp.ongoing.LINGER_S", 0.0)
        yield


@settings(max_examples=100)
@given(
    st.sampled_from(("\n", "\r\n")),
    st.sampled_from(SPEEDS),
    st.lists(
        st.builds(Act, st.sampled_from(ACTS), st.integers(0, 6), st.sampled_from(WORDS)),
        min_size=5,
        max_size=60,
    ),
)
def test_answers_are_never_stale_and_nothing_is_left_over(
    line_ending: str, speed: Speed, acts: list[Act]
) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S):
            window = Window(line_ending, speed)
            await window.do(Act("open", 0, ""))
            for act in acts:
                await window.do(act)
            await window.end()

    asyncio.run(scenario())
