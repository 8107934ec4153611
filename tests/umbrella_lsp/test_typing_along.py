"""A user who types while the engine speaks: what is answered, from where, and what is closed."""

from __future__ import annotations

import asyncio

import pytest

from engine.protocol import StopReason
from tests.umbrella_lsp.cursor import at_cursor
from tests.umbrella_lsp.fakes import NoSyntax, ScriptedStreams, events, piece
from tests.umbrella_lsp.typist import URI, Typist, play, text_of
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.completer import Completer
from umbrella_lsp.settings import Settings


def test_typing_along_a_suggestion_asks_no_engine() -> None:
    async def scenario(typist: Typist) -> None:
        assert text_of(await typist.shown("x = ‸\n", "name", ".strip()")) == "name.strip()"
        typist.types("x = name‸\n")
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.source) == (".strip()", "cache")
        assert len(typist.engine.streams) == 1

    play(scenario)


def test_a_cached_answer_takes_one_turn_of_the_loop() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "name")
        typist.types("x = n‸\n")
        asked = typist.asks()
        await asyncio.sleep(0)
        assert asked.done()

    play(scenario)


def test_a_text_on_its_way_is_kept_while_it_agrees_with_what_is_typed() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        first = typist.asks()
        stream = await typist.stream(1)
        stream.say("na")
        typist.types("x = n‸\n")
        first.cancel()
        second = typist.asks()
        await asyncio.sleep(0)  # It waits for the stream by then.
        stream.say("me")
        stream.end()
        outcome = await second
        assert (text_of(outcome), outcome.source) == ("ame", "kept")
        assert len(typist.engine.streams) == 1
        assert outcome.suggestion is not None
        assert outcome.suggestion.start == typist.offset

    play(scenario)


def test_a_key_that_contradicts_a_text_on_its_way_closes_it_at_once() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        stream.say("na")
        await asyncio.sleep(0)
        typist.types("x = q‸\n")
        await until(lambda: stream.is_closed)
        assert (await asked).reason == "outdated"

    play(scenario)


def test_a_text_that_comes_to_contradict_what_was_typed_is_closed_and_another_begun() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        typist.asks().cancel()
        stale = typist.asks()
        stream = await typist.stream(1)
        typist.types("x = n‸\n")
        stale.cancel()
        asked = typist.asks()
        stream.say("other")
        fresh = await typist.stream(2)
        assert stream.is_closed
        fresh.end("ame")
        outcome = await asked
        assert (text_of(outcome), outcome.source) == ("ame", "new")

    play(scenario)


def test_the_first_line_is_answered_as_soon_as_it_is_there_and_the_next_request_gets_the_rest() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("def f(a):‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        stream.say("\n    b = a\n")
        assert text_of(await asked) == "\n    b = a"
        stream.say("    return b\n")
        stream.end()
        typist.types("def f(a):\n    ‸\n")
        await until(lambda: stream.is_closed)
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.source) == ("b = a\n    return b", "cache")
        assert len(typist.engine.streams) == 1

    play(scenario)


def test_who_asks_waits_for_the_whole() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("def f(a):‸\n")
        asked = typist.asks(invoked=True)
        stream = await typist.stream(1)
        stream.say("\n    b = a\n")
        stream.say("    return b")
        stream.end()
        assert text_of(await asked) == "\n    b = a\n    return b"

    play(scenario)


def test_backspace_returns_to_the_earlier_suggestion() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "name")
        await typist.shown("x = nob‸\n", "ody")
        typist.types("x = n‸\n")
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.source) == ("ame", "cache")

    play(scenario)


def test_an_answer_is_rebased_over_what_was_typed_of_it_meanwhile() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        typist.types("x = na‸\n")
        stream.end("name")
        outcome = await asked
        assert outcome.suggestion is not None
        assert (outcome.suggestion.text, outcome.suggestion.start) == ("me", 6)
        assert outcome.document is typist.document

    play(scenario)


def test_what_was_typed_before_a_request_is_looked_at_counts_for_it() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "name")
        asked = typist.asks()
        typist.types("x = na‸\n")
        outcome = await asked
        assert outcome.suggestion is not None
        assert (outcome.suggestion.text, outcome.suggestion.start) == ("me", 6)
        asked = typist.asks()
        typist.types("y\nx = na‸\n")
        assert (await asked).reason == "outdated"

    play(scenario)


def test_a_bracket_that_the_editor_has_closed_makes_a_text_on_its_way_wait_for_the_next_request() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = f‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        typist.types("x = f(‸)\n")
        stream.say("(a")
        assert (await asked).reason == "outdated"  # The cursor may be behind the closer, as far as it knows.
        asked = typist.asks()
        stream.end(")")
        outcome = await asked
        assert (text_of(outcome), outcome.source) == ("a", "kept")

    play(scenario)


@pytest.mark.parametrize("now", ["x = zz‸\n", "y = ‸\n", "x = ‸\nmore\n", "‸"])
def test_an_answer_that_fits_no_more_is_withheld(now: str) -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        typist.types(now)
        stream.end("name")
        outcome = await asked
        assert (outcome.reason, outcome.suggestions) == ("outdated", ())

    play(scenario)


def test_who_pauses_is_told_of_the_lines_that_come_after_the_first() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("def f():‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        stream.say("\n    a = 1\n")
        assert text_of(await asked) == "\n    a = 1"
        stream.say("    b = 2\n")
        await until(lambda: typist.better)
        assert text_of(await typist.asks()) == "\n    a = 1\n    b = 2"
        stream.end("    return b")
        await until(lambda: len(typist.better) == 2)
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.source) == ("\n    a = 1\n    b = 2\n    return b", "cache")

    play(scenario)


def test_nothing_is_told_of_a_suggestion_that_is_as_it_was_shown() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "1")
        await typist.stream(2)  # What follows its accept.
        assert typist.better == []

    play(scenario)


def test_what_follows_an_accept_is_fetched_ahead_at_the_lowest_priority() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "1")
        ahead = await typist.stream(2)
        assert ahead.call.umbrella.priority == "prefetch"
        assert ahead.call.umbrella.segments[0].text == "x = 1"
        ahead.end("\ny = 2")
        await until(lambda: ahead.is_closed)
        typist.types("x = 1‸\n")
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.source) == ("\ny = 2", "cache")

    play(scenario)


def test_what_is_fetched_ahead_goes_on_while_the_suggestion_is_typed_and_is_kept_by_its_accept() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "12")
        ahead = await typist.stream(2)
        typist.types("x = 1‸\n")
        assert text_of(await typist.asks()) == "2"
        typist.types("x = 12‸\n")
        asked = typist.asks()
        ahead.end("\ny = 3")
        outcome = await asked
        assert (text_of(outcome), outcome.source) == ("\ny = 3", "kept")

    play(scenario)


def test_what_is_fetched_ahead_is_dropped_at_the_first_key_that_contradicts_it() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "12")
        ahead = await typist.stream(2)
        typist.types("x = 7‸\n")
        await until(lambda: ahead.is_closed)

    play(scenario)


def test_an_accept_before_anything_was_fetched_ahead_is_followed_by_the_next_lines() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "1")
        typist.types("x = 1‸\n")
        asked = typist.asks()
        stream = await typist.stream(2)
        assert stream.call.umbrella.priority == "typing"
        assert (stream.call.umbrella.stop.max_lines or 99) > 1
        stream.end("\ny = 2")
        assert text_of(await asked) == "\ny = 2"

    play(scenario)


def test_a_generation_cut_short_shows_whole_lines_only() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("def f():‸\n")
        asked = typist.asks(invoked=True)
        stream = await typist.stream(1)
        stream.say("\n    a = 1\n    b = ")
        stream.end(stop=StopReason.LENGTH)
        assert text_of(await asked) == "\n    a = 1"

    play(scenario)


def test_closing_a_document_closes_its_streams() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        asked = typist.asks()
        stream = await typist.stream(1)
        typist.completer.closed(URI)
        await until(lambda: stream.is_closed)
        assert (await asked).suggestions == ()

    play(scenario)


def test_each_accept_in_a_row_finds_what_follows_it_fetched_ahead() -> None:
    async def scenario(typist: Typist) -> None:
        await typist.shown("x = ‸\n", "1")
        (await typist.stream(2)).end("\ny = 2")
        await until(lambda: typist.engine.last.is_closed)
        typist.types("x = 1‸\n")
        assert text_of(await typist.asks()) == "\ny = 2"
        ahead = await typist.stream(3)
        assert ahead.call.umbrella.priority == "prefetch"
        assert ahead.call.umbrella.segments[0].text == "x = 1\ny = 2"

    play(scenario)


def test_what_follows_an_accept_has_to_be_as_likely_as_anything_else() -> None:
    unlikely = piece("\ny = 2", tokens=((0, -9.0),), stop=StopReason.END, final=True)
    engine = ScriptedStreams([[*events("1")], [unlikely]])

    async def scenario() -> None:
        completer = Completer(engine, NoSyntax(), settings=Settings(min_confidence=0.5))
        assert text_of(await completer.complete(*at_cursor("x = ‸\n"))) == "1"
        await until(lambda: engine.closed == 2)
        outcome = await completer.complete(*at_cursor("x = 1‸\n"))
        assert (outcome.reason, outcome.suggestions) == ("unsure", ())

    asyncio.run(scenario())


@pytest.mark.parametrize("has_spoken", [False, True])
def test_other_settings_end_what_was_asked_under_the_old_ones(has_spoken: bool) -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("x = ‸\n")
        asked = typist.asks()
        if has_spoken:
            (await typist.stream(1)).say("na")
        else:
            await asyncio.sleep(0)
        typist.completer.configure(Settings(enabled=False), ())
        assert (await asked).reason == "outdated"
        await until(lambda: all(stream.is_closed for stream in typist.engine.streams))
        assert len(typist.engine.streams) == has_spoken

    play(scenario)
