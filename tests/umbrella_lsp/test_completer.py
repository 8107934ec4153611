"""The product, with an engine that says what the test has written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.protocol import StopReason
from tests.umbrella_lsp.cursor import at_cursor
from tests.umbrella_lsp.fakes import ScriptedStreams, events, saying
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.completer import MAX_DOCUMENT_CHARS, Completer, Outcome, Selection, digest, shown_path
from umbrella_lsp.document import Document
from umbrella_lsp.errors import EngineUnavailable
from umbrella_lsp.settings import Settings


def complete(engine: ScriptedStreams, marked: str, settings: Settings | None = None) -> Outcome:
    return asyncio.run(Completer(engine, settings=settings).complete(*at_cursor(marked)))


def text_of(outcome: Outcome) -> str:
    return outcome.suggestion.text if outcome.suggestion else ""


def test_a_suggestion_is_inserted_at_the_cursor_and_carries_what_it_cost() -> None:
    outcome = complete(saying("na", "me"), "self.name = ‸\n")
    assert outcome.suggestion is not None
    assert (outcome.suggestion.text, outcome.suggestion.start, outcome.suggestion.end) == ("name", 12, 12)
    assert (outcome.reason, outcome.stop) == ("suggested", StopReason.END)
    assert (outcome.timings.prefill_ms, outcome.tokens.accepted) == (2.0, 5)
    assert outcome.total_ms >= outcome.context_ms > 0


def test_no_suggestion_is_a_value() -> None:
    outcome = complete(saying("\n"), "x = 1‸\n")
    assert (outcome.suggestion, outcome.reason) == (None, "nothing")


def test_a_windows_document_gets_its_own_line_endings() -> None:
    engine = saying("\n    x = 1\n    y = 2")
    assert text_of(complete(engine, "def f():‸\r\n")) == "\r\n    x = 1\r\n    y = 2"
    assert "\r" not in "".join(segment.text for segment in engine.calls[0].umbrella.segments)


def test_the_engine_learns_neither_paths_nor_names_in_the_clear() -> None:
    engine = saying("name")
    document = Document("file:///home/someone/code/lib/app.py", "x = \n", "python")
    completer = Completer(engine, roots=(Path("/home/someone/code"),))
    asyncio.run(completer.complete(document, 4))
    request = engine.calls[0].umbrella
    assert request.path == "lib/app.py"
    assert (request.session, request.workspace) == (digest(document.uri), digest("/home/someone/code"))
    assert "someone" not in repr(engine.calls)


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/w/lib/a.py", "lib/a.py"), ("/elsewhere/a.py", "a.py"), ("Untitled-1", "Untitled-1")],
)
def test_the_model_is_told_a_path_within_the_workspace_or_a_name(path: str, shown: str) -> None:
    assert shown_path(path, (Path("/w"),)) == shown


def test_settings_reach_the_engine() -> None:
    engine = saying("\n    pass")
    complete(engine, "def f():‸\n", Settings(max_tokens=12, max_lines=3))
    assert engine.calls[0].max_tokens == 12
    assert engine.calls[0].umbrella.stop.max_lines == 4
    assert engine.calls[0].umbrella.priority == "typing"


def test_plain_decoding_and_a_slot_of_ones_own_can_be_asked_for() -> None:
    engine = saying("name")
    asyncio.run(Completer(engine, session="mine", speculative=False).complete(*at_cursor("x = ‸")))
    assert engine.calls[0].umbrella.session == "mine"
    assert engine.calls[0].umbrella.speculative is False


@pytest.mark.parametrize(
    ("document", "settings", "reason"),
    [
        (Document("file:///w/.env", "KEY=", ""), Settings(), "secret"),
        (Document("file:///w/a.py", "x = ", ""), Settings(enabled=False), "disabled"),
        (Document("file:///w/a.py", "x" * (MAX_DOCUMENT_CHARS + 1), ""), Settings(), "too large"),
    ],
    ids=["secret", "disabled", "too large"],
)
def test_some_documents_never_reach_the_engine(document: Document, settings: Settings, reason: str) -> None:
    engine = saying("name")
    outcome = asyncio.run(Completer(engine, settings=settings).complete(document, 4))
    assert (outcome.suggestion, outcome.reason, engine.calls) == (None, reason, [])


def test_typing_along_a_suggestion_asks_no_engine() -> None:
    engine = saying("name.strip()")

    async def scenario() -> None:
        completer = Completer(engine)
        await completer.complete(*at_cursor("x = ‸\n"))
        outcome = await completer.complete(*at_cursor("x = name‸\n"))
        assert (text_of(outcome), outcome.reason) == (".strip()", "cached")
        assert len(engine.calls) == 1
        await completer.complete(*at_cursor("x = no‸\n"))
        assert len(engine.calls) == 2

    asyncio.run(scenario())


def test_other_settings_make_other_suggestions() -> None:
    engine = saying("name")

    async def scenario() -> None:
        completer = Completer(engine)
        await completer.complete(*at_cursor("x = ‸\n"))
        completer.configure(Settings(max_tokens=2), ())
        await completer.complete(*at_cursor("x = ‸\n"))

    asyncio.run(scenario())
    assert [call.max_tokens for call in engine.calls] == [96, 2]


def test_what_the_editors_list_would_insert_is_extended_over_its_range() -> None:
    engine = saying("(path)")
    document, offset = at_cursor("os.path.jo‸\n")
    selection = Selection(start=8, end=10, text="join")
    outcome = asyncio.run(Completer(engine).complete(document, offset, selection))
    assert outcome.suggestion is not None
    assert (outcome.suggestion.text, outcome.suggestion.start, outcome.suggestion.end) == (
        "join(path)",
        8,
        10,
    )
    assert engine.calls[0].umbrella.segments[0].text == "os.path.join"


def test_reading_ends_with_the_block_and_closes_the_stream() -> None:
    engine = saying("\n    return 1", "\n", "\ndef g():", "\n    pass")
    outcome = complete(engine, "def f():‸\n")
    assert (text_of(outcome), outcome.stop) == ("\n    return 1", "complete")
    assert (engine.read, engine.closed) == (2, 1)


def test_a_cancel_closes_the_stream() -> None:
    engine = ScriptedStreams([[*events("na")[:1]]], is_held=True)

    async def scenario() -> None:
        task = asyncio.create_task(Completer(engine).complete(*at_cursor("x = ‸\n")))
        await until(lambda: engine.read)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.closed == 1

    asyncio.run(scenario())


def test_an_engine_that_breaks_off_is_the_callers_to_report() -> None:
    engine = ScriptedStreams([[events("na")[0], EngineUnavailable("crashed")]])
    with pytest.raises(EngineUnavailable, match="crashed"):
        complete(engine, "x = ‸\n")


def test_the_suffix_shown_stays_while_its_line_is_typed() -> None:
    engine = saying("y")

    async def scenario() -> None:
        completer = Completer(engine)
        await completer.complete(*at_cursor("f‸\nnext\n"))
        await completer.complete(*at_cursor("f(‸)\nnext\n"))
        await completer.complete(*at_cursor("f(x)\nnext‸\n"))

    asyncio.run(scenario())
    suffixes = [next(s.text for s in c.umbrella.segments if s.kind == "suffix") for c in engine.calls]
    assert suffixes == ["\nnext\n", "\nnext\n", "\n"]
