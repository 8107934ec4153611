"""A target that takes long: the draft answers first, and the target is asked where that pays."""

from __future__ import annotations

import asyncio

import pytest

from tests.umbrella_lsp.typist import Typist, play, text_of
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.pace import Speed

SLOW = Speed(pass_ms=1000.0, draft_ms=20.0)


def test_a_slow_target_lets_the_draft_answer_first_and_is_asked_after_a_pause() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("total = ‸\n")
        asked = typist.asks()
        draft = await typist.stream(1)
        assert (draft.call.umbrella.tier, draft.call.umbrella.priority) == ("draft", "typing")
        draft.end("sum(values_of(account))")
        outcome = await asked
        assert (text_of(outcome), outcome.tier) == ("sum(values_of(account))", "draft")
        target = await typist.stream(2)
        assert target.call.umbrella.tier == "target"
        assert typist.better == []
        target.end("sum(values_of(account)) + 1")
        await until(lambda: typist.better)
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.tier) == ("sum(values_of(account)) + 1", "target")

    play(scenario, SLOW)


def test_what_the_user_has_begun_to_accept_is_not_replaced_by_the_target() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("total = ‸\n")
        asked = typist.asks()
        (await typist.stream(1)).end("sum(values_of(account))")
        await asked
        target = await typist.stream(2)
        typist.types("total = s‸\n")
        assert text_of(await typist.asks()) == "um(values_of(account))"
        assert not target.is_closed
        target.end("sorted(names)")
        await until(lambda: target.is_closed)
        outcome = await typist.asks()
        assert (text_of(outcome), outcome.tier) == ("um(values_of(account))", "draft")

    play(scenario, SLOW)


def test_a_slow_target_may_replace_what_nobody_has_begun_to_accept() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("total = ‸\n")
        asked = typist.asks()
        (await typist.stream(1)).end("sum(values_of(account))")
        await asked
        (await typist.stream(2)).end("max(prices)")
        await until(lambda: typist.better)
        assert text_of(await typist.asks()) == "max(prices)"

    play(scenario, SLOW)


def test_keys_typed_without_a_pause_cost_a_slow_target_nothing() -> None:
    async def scenario(typist: Typist) -> None:
        for size in range(1, 9):
            typist.types(f"{'quantity'[:size]}‸\n")
            asked = typist.asks()
            (await typist.stream(size)).end("_of(everything)")
            await asked
        assert {stream.call.umbrella.tier for stream in typist.engine.streams} == {"draft"}

    play(scenario, SLOW)


def test_who_asks_gets_the_slow_target_at_once() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("total = ‸\n")
        asked = typist.asks(invoked=True)
        target = await typist.stream(1)
        assert target.call.umbrella.tier == "target"
        target.end("1")
        assert text_of(await asked) == "1"

    play(scenario, SLOW)


def test_without_a_draft_a_slow_target_is_waited_for_and_a_key_before_its_turn_costs_it_nothing() -> None:
    async def scenario(typist: Typist) -> None:
        for text in ("t‸", "to‸", "tot‸"):
            typist.types(text)
            asked = typist.asks()
            await asyncio.sleep(0)
            asked.cancel()
        assert typist.engine.streams == []
        typist.types("total = ‸\n")
        asked = typist.asks()
        (await typist.stream(1)).end("1")
        assert text_of(await asked) == "1"

    play(scenario, Speed(pass_ms=1000.0))


def test_a_key_before_the_engine_is_asked_leaves_it_alone() -> None:
    async def scenario(typist: Typist) -> None:
        for text in ("t‸", "to‸"):
            typist.types(text)
            asked = typist.asks()
            await asyncio.sleep(0)
        typist.types("tot‸")
        assert (await asked).reason == "outdated"
        assert typist.engine.streams == []

    play(scenario, Speed(pass_ms=1000.0))


def test_the_editor_is_told_of_what_the_target_adds_to_what_was_begun_meanwhile() -> None:
    async def scenario(typist: Typist) -> None:
        typist.types("total = ‸\n")
        asked = typist.asks()
        (await typist.stream(1)).end("sum(values)")
        await asked
        target = await typist.stream(2)
        typist.types("total = s‸\n")
        assert text_of(await typist.asks()) == "um(values)"
        target.end("sum(values) + 1")
        await until(lambda: typist.better)
        assert text_of(await typist.asks()) == "um(values) + 1"
        assert len(typist.engine.streams) == 2

    play(scenario, SLOW)


@pytest.mark.parametrize(("said", "place"), [("", "total = ‸\n"), ("max(prices)", "total = m‸\n")])
def test_a_slow_target_is_not_asked_again_what_it_has_answered(
    monkeypatch: pytest.MonkeyPatch, said: str, place: str
) -> None:
    monkeypatch.setattr("umbrella_lsp.completer.pause_ms", lambda *_: 0.0)

    async def scenario(typist: Typist) -> None:
        typist.types("total = ‸\n")
        asked = typist.asks()
        (await typist.stream(1)).end("m(values_of(account))")
        await asked
        target = await typist.stream(2)
        typist.types("total = m‸\n")
        await typist.asks()
        target.end(said)
        await until(lambda: target.is_closed)
        typist.types(place)
        assert (await typist.asks()).tier == "draft"
        for _ in range(9):
            await asyncio.sleep(0)  # It would be asked by then.
        assert len(typist.engine.streams) == 2

    play(scenario, SLOW)
