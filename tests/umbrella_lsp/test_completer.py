"""The product, with an engine that says what the test has written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.protocol import StopReason
from tests.umbrella_lsp.cursor import at_cursor
from tests.umbrella_lsp.fakes import NoSyntax, ScriptedStreams, events, piece, saying
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.completer import MAX_DOCUMENT_CHARS, Completer
from umbrella_lsp.document import Document
from umbrella_lsp.errors import EngineUnavailable
from umbrella_lsp.names import digest, shown_path
from umbrella_lsp.outcome import Outcome, Selection
from umbrella_lsp.settings import Settings


def completer_of(engine: ScriptedStreams, settings: Settings | None = None) -> Completer:
    return Completer(engine, NoSyntax(), settings=settings)


def complete(engine: ScriptedStreams, marked: str, settings: Settings | None = None) -> Outcome:
    async def scenario() -> Outcome:
        return await completer_of(engine, settings).complete(*at_cursor(marked))

    return asyncio.run(scenario())


def text_of(outcome: Outcome) -> str:
    return outcome.suggestion.text if outcome.suggestion else ""


def test_a_suggestion_is_inserted_at_the_cursor_and_carries_what_it_cost() -> None:
    outcome = complete(saying("na", "me"), "self.name = ‸\n")
    assert outcome.suggestion is not None
    assert (outcome.suggestion.text, outcome.suggestion.start, outcome.suggestion.end) == ("name", 12, 12)
    assert (outcome.reason, outcome.source, outcome.stop) == ("suggested", "new", StopReason.END)
    assert (outcome.timings.prefill_ms, outcome.tokens.accepted) == (2.0, 5)
    assert outcome.total_ms >= outcome.server_ms >= outcome.context_ms > 0


def test_no_suggestion_is_a_value() -> None:
    outcome = complete(saying("\n"), "x = 1‸\n")
    assert (outcome.suggestion, outcome.reason) == (None, "nothing")


ANY, PYTHON = (), ("python",)


@pytest.mark.parametrize(
    ("settings", "models", "language", "by_itself", "asked_for"),
    [
        (Settings(), ANY, "rust", True, True),
        (Settings(), PYTHON, "python", True, True),
        (Settings(), PYTHON, "rust", False, True),
        (Settings(), PYTHON, "", False, True),
        (Settings(languages=("rust",)), PYTHON, "rust", True, True),
        (Settings(languages=("rust",)), ANY, "python", False, False),
        (Settings(disabled_languages=("rust",)), ANY, "rust", False, False),
        (Settings(languages=("rust",), disabled_languages=("rust",)), ANY, "rust", False, False),
    ],
)
def test_the_settings_and_then_the_model_choose_the_languages(
    settings: Settings, models: tuple[str, ...], language: str, by_itself: bool, asked_for: bool
) -> None:
    engine = saying("name")
    completer = completer_of(engine, settings)
    completer.told_languages(models)
    document = Document.of("file:///a", "x = \n", language)

    async def reasons() -> list[str]:
        return [(await completer.complete(document, 4, invoked=invoked)).reason for invoked in (False, True)]

    expected = ["suggested" if wanted else "other language" for wanted in (by_itself, asked_for)]
    assert asyncio.run(reasons()) == expected
    assert bool(engine.calls) == (by_itself or asked_for)


@pytest.mark.parametrize(
    ("settings", "models", "languages"),
    [
        (Settings(), ANY, ()),
        (Settings(), PYTHON, ("python",)),
        (Settings(languages=("rust", "c")), PYTHON, ("rust", "c")),
        (Settings(languages=("rust", "c"), disabled_languages=("c", "go")), ANY, ("rust",)),
    ],
)
def test_it_tells_in_which_languages_suggestions_come_by_themselves(
    settings: Settings, models: tuple[str, ...], languages: tuple[str, ...]
) -> None:
    completer = completer_of(saying(""), settings)
    completer.told_languages(models)
    assert completer.languages == languages


def test_a_windows_document_gets_its_own_line_endings() -> None:
    engine = saying("\n    x = 1\n    y = 2")
    outcome = asyncio.run(completer_of(engine).complete(*at_cursor("def f():‸\r\n"), invoked=True))
    assert text_of(outcome) == "\r\n    x = 1\r\n    y = 2"
    assert "\r" not in "".join(segment.text for segment in engine.calls[0].umbrella.segments)


def test_the_engine_learns_neither_paths_nor_names_in_the_clear() -> None:
    engine = saying("name")
    document = Document.of("file:///home/someone/code/lib/app.py", "x = \n", "python")

    async def scenario() -> None:
        completer = Completer(engine, NoSyntax(), roots=(Path("/home/someone/code"),))
        await completer.complete(document, 4)

    asyncio.run(scenario())
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

    async def scenario() -> None:
        completer = Completer(engine, NoSyntax(), session="mine", speculative=False)
        await completer.complete(*at_cursor("x = ‸"))

    asyncio.run(scenario())
    assert engine.calls[0].umbrella.session == "mine"
    assert engine.calls[0].umbrella.speculative is False


@pytest.mark.parametrize(
    ("document", "settings", "reason"),
    [
        (Document.of("file:///w/.env", "KEY="), Settings(), "secret"),
        (Document.of("file:///w/a.vault", "key"), Settings(secret_files=("*.vault",)), "secret"),
        (Document.of("file:///w/a.py", "x = "), Settings(enabled=False), "disabled"),
        (Document.of("file:///w/a.py", "x" * (MAX_DOCUMENT_CHARS + 1)), Settings(), "too large"),
    ],
    ids=["secret", "secret by choice", "disabled", "too large"],
)
def test_some_documents_never_reach_the_engine(document: Document, settings: Settings, reason: str) -> None:
    engine = saying("name")

    async def scenario() -> Outcome:
        return await completer_of(engine, settings).complete(document, 3)

    outcome = asyncio.run(scenario())
    assert (outcome.suggestion, outcome.reason, engine.calls) == (None, reason, [])


def test_nothing_is_asked_in_the_middle_of_a_word_unless_somebody_does() -> None:
    engine = saying("name")

    async def scenario() -> None:
        completer = completer_of(engine)
        outcome = await completer.complete(*at_cursor("pri‸nt\n"))
        assert (outcome.reason, engine.calls) == ("inside a word", [])
        await completer.complete(*at_cursor("pri‸nt\n"), invoked=True)
        assert len(engine.calls) == 1

    asyncio.run(scenario())


def test_what_the_target_itself_thinks_unlikely_is_not_shown_until_its_doubt_is_typed() -> None:
    engine = ScriptedStreams([[piece("name", tokens=((0, -9.0), (2, -0.1))), *events()]])

    async def scenario() -> None:
        completer = completer_of(engine, Settings(min_confidence=0.01))
        outcome = await completer.complete(*at_cursor("x = ‸\n"))
        assert (outcome.reason, outcome.suggestion) == ("unsure", None)
        outcome = await completer.complete(*at_cursor("x = na‸\n"))
        assert (text_of(outcome), outcome.source) == ("me", "cache")
        outcome = await completer.complete(*at_cursor("x = ‸\n"), invoked=True)
        assert text_of(outcome) == "name"

    asyncio.run(scenario())


def test_other_settings_make_other_suggestions() -> None:
    engine = saying("name")

    async def scenario() -> None:
        completer = completer_of(engine)
        await completer.complete(*at_cursor("x = ‸\n"))
        completer.configure(Settings(max_tokens=2), ())
        await completer.complete(*at_cursor("x = ‸\n"))

    asyncio.run(scenario())
    assert [call.max_tokens for call in engine.calls] == [96, 2]


def test_what_the_editors_list_would_insert_is_extended_over_its_range() -> None:
    engine = saying("(path)")
    document, offset = at_cursor("os.path.jo‸\n")
    selection = Selection(start=8, end=10, text="join")

    async def scenario() -> None:
        outcome = await completer_of(engine).complete(document, offset, selection)
        found = outcome.suggestion
        assert found is not None
        assert (found.text, found.start, found.end) == ("join(path)", 8, 10)

    asyncio.run(scenario())
    assert engine.calls[0].umbrella.segments[0].text == "os.path.join"


def test_who_asks_gets_several_texts_and_all_of_them_at_once() -> None:
    stream = [
        piece("na"),
        piece("me", stop=StopReason.END),
        piece("number", index=1, stop=StopReason.LINES),
        piece("name", index=2, stop=StopReason.END, final=True),
    ]
    engine = ScriptedStreams([[*stream]])

    async def scenario() -> None:
        completer = completer_of(engine, Settings(alternatives=3))
        outcome = await completer.complete(*at_cursor("x = ‸\n"), invoked=True)
        assert [suggestion.text for suggestion in outcome.suggestions] == ["name", "number"]
        assert engine.calls[0].umbrella.n == 3
        typed = await completer.complete(*at_cursor("x = nu‸\n"))
        assert (text_of(typed), typed.source) == ("mber", "cache")

    asyncio.run(scenario())


def test_a_cancel_closes_the_stream_when_nobody_asks_again() -> None:
    engine = ScriptedStreams([[*events("na")[:1]]], is_held=True)

    async def scenario() -> None:
        task = asyncio.create_task(completer_of(engine).complete(*at_cursor("x = ‸\n")))
        await until(lambda: engine.read)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.closed)

    asyncio.run(scenario())


def test_an_engine_that_breaks_off_is_the_callers_to_report() -> None:
    engine = ScriptedStreams([[events("na")[0], EngineUnavailable("crashed")]])
    with pytest.raises(EngineUnavailable, match="crashed"):
        complete(engine, "x = ‸\n")
