"""The engine as it ships, with a target as slow as one of 70 billion parameters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from engine.client import EngineClient, InfillCall, StreamEvent, fetch_health
from engine.protocol import StopReason, StopSpec, Tier, UmbrellaRequest
from tests.engine.fakes import Gate, RunningEngine, eventually
from tests.engine.slowed import LAYERS, slowed_engine

TEXT = "class Account:\n    def __init__(self, owner, balance):\n        self.owner = owner\n        self.bal"
PASS_MS = 3000.0
HELD = 42
"""A layer in the middle of a pass."""
CANCELLED = 'umbrella_requests_total{endpoint="/infill",outcome="cancelled"}'


class Watched:
    """Counts the target's layers, and holds it in two of them."""

    def __init__(self) -> None:
        self.layers = 0
        self.first, self.next = Gate(layer=HELD), Gate(layer=HELD + 1)

    def __call__(self, layer: int) -> None:
        self.layers += 1
        self.first(layer)
        self.next(layer)


@pytest.fixture
def target() -> Watched:
    return Watched()


@pytest.fixture
def engine(tmp_path: Path, target: Watched) -> Generator[RunningEngine]:
    with slowed_engine(tmp_path, PASS_MS, in_layer=target) as running:
        yield running


def infill(client: EngineClient, tier: Tier) -> AsyncGenerator[StreamEvent]:
    ours = UmbrellaRequest(session="account.py", tier=tier, language="python", stop=StopSpec(max_lines=1))
    return client.infill(InfillCall(TEXT, umbrella=ours, max_tokens=12, temperature=0.0))


async def whole(events: AsyncGenerator[StreamEvent]) -> tuple[str, StreamEvent]:
    got = [event async for event in events]
    return "".join(event.text for event in got), got[-1]


def test_a_draft_answers_while_the_target_stands_in_its_first_pass(
    engine: RunningEngine, target: Watched
) -> None:
    async def type_on() -> None:
        client = EngineClient(engine.endpoint)
        slow = asyncio.create_task(whole(infill(client, "target")))
        await asyncio.to_thread(target.first.wait)
        quick = asyncio.create_task(whole(infill(client, "draft")))
        await asyncio.to_thread(eventually, lambda: engine.metric("umbrella_queue_depth") == 1)
        target.first.release()
        text, last = await quick
        assert text
        assert (last.reply.tier, last.reply.stop) == ("draft", StopReason.LINES)
        assert target.layers <= HELD + 2, "the target is still in the layer that was next"
        target.next.release()
        text, last = await slow
        assert text
        assert last.reply.tier == "target"
        await client.aclose()

    asyncio.run(type_on())


def test_a_closed_connection_stops_a_slow_pass_in_the_layer_it_is_in(
    engine: RunningEngine, target: Watched
) -> None:
    async def type_and_contradict() -> None:
        client = EngineClient(engine.endpoint)
        slow = asyncio.create_task(whole(infill(client, "target")))
        await asyncio.to_thread(target.first.wait)
        slow.cancel()
        with suppress(asyncio.CancelledError):
            await slow
        await client.aclose()

    asyncio.run(type_and_contradict())
    eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
    target.first.release()
    eventually(lambda: engine.metric(CANCELLED) == 1)
    assert target.layers == HELD + 1


def test_it_says_how_slow_it_is(engine: RunningEngine) -> None:
    eventually(lambda: fetch_health(engine.endpoint).state == "ready")
    health = fetch_health(engine.endpoint)
    assert health.pass_ms == PASS_MS
    assert PASS_MS / LAYERS < health.draft_ms < PASS_MS / 10


def test_every_pass_takes_its_time(tmp_path: Path) -> None:
    async def type_on(engine: RunningEngine) -> StreamEvent:
        client = EngineClient(engine.endpoint)
        async with aclosing(infill(client, "target")) as events:
            _, last = await whole(events)
        await client.aclose()
        return last

    with slowed_engine(tmp_path, 80.0) as engine:
        reply = asyncio.run(type_on(engine)).reply
    assert reply.timings.prefill_ms + reply.timings.decode_ms >= 80.0 * reply.tokens.target_passes
