from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.oracle import Oracle
from benchmarks.oracle_engine import EngineCounts, OracleEngine, Pace, serving
from engine.client import Endpoint, EngineClient, InfillCall, StreamEvent
from engine.protocol import Priority, Segment, StopReason, StopSpec, Tier, UmbrellaRequest

LINE = "the quick brown fox jumps over the lazy dog"


@contextmanager
def an_engine(oracle: Oracle, pass_ms: float = 0.0) -> Generator[tuple[OracleEngine, Path]]:
    with TemporaryDirectory(prefix="umb-") as folder:
        engine = OracleEngine(oracle, Pace(pass_ms))
        with serving(engine, Path(folder)):
            yield engine, Path(folder) / "engine.sock"


def call(
    prefix: str,
    *,
    stop: StopSpec | None = None,
    priority: Priority = "typing",
    tier: Tier = "target",
    max_tokens: int | None = None,
) -> InfillCall:
    umbrella = UmbrellaRequest(
        segments=(Segment("prefix", prefix), Segment("suffix", "\n")),
        session="s",
        stop=stop or StopSpec(),
        priority=priority,
        tier=tier,
    )
    return InfillCall(umbrella=umbrella, max_tokens=max_tokens)


def ask(socket: Path, *calls: InfillCall) -> list[list[StreamEvent]]:
    async def work() -> list[list[StreamEvent]]:
        client = EngineClient(Endpoint(socket))
        try:
            return [[event async for event in client.infill(one)] for one in calls]
        finally:
            await client.aclose()

    return asyncio.run(work())


def knowing(before: str, coming: str) -> Oracle:
    oracle = Oracle(1.0, 2)
    oracle.show(before, len(before), coming)
    return oracle


def test_what_is_to_come_is_streamed_some_tokens_a_pass():
    with an_engine(knowing("a = ", LINE)) as (engine, socket):
        ((*_, last),) = [events] = ask(socket, call("a = ", stop=StopSpec(max_lines=1)))
    assert "".join(event.text for event in events) == LINE
    assert last.reply.tokens.target_passes == 3
    assert last.reply.tokens.generated == 11
    assert engine.counts().passes == 3


def test_stops_and_limits_are_kept():
    coming = "one = 1\n    two = 2\nthree = 3\n"
    stops = [
        (StopSpec(max_lines=1), None, "one = 1", StopReason.LINES),
        (StopSpec(min_indent=2), None, "one = 1\n    two = 2", StopReason.INDENT),
        (StopSpec(), 2, "one = 1", StopReason.LENGTH),
    ]
    with an_engine(knowing("", coming)) as (_, socket):
        calls = [call("", stop=stop, max_tokens=limit) for stop, limit, _, _ in stops]
        for (_, _, text, reason), events in zip(stops, ask(socket, *calls), strict=True):
            assert "".join(event.text for event in events) == text
            assert events[-1].reply.stop is reason


def test_only_what_is_new_of_a_prompt_is_read():
    before = "x" * 400
    with an_engine(knowing(before, "one")) as (engine, socket):
        ask(socket, call(before), call(before + "one"))
    counts = engine.counts()
    assert counts.generations == 2
    assert counts.prompt - counts.reused <= 400 // 4 + 3


def test_a_draft_takes_no_target_pass():
    with an_engine(knowing("a = ", LINE)) as (engine, socket):
        (events,) = ask(socket, call("a = ", tier="draft"))
    assert events[-1].reply.tier == "draft"
    assert events[-1].reply.tokens.target_passes == 0
    assert engine.counts() == EngineCounts(wasted_passes=0, drafts=1, prefetches=0, right=0)


def test_a_stream_that_is_closed_is_a_cancel_and_passes_after_a_divergence_are_wasted():
    oracle = knowing("a = ", LINE * 50)  # Which does not come to its end meanwhile.

    async def type_something_else(socket: Path, is_counted: Callable[[], bool]) -> None:
        client = EngineClient(Endpoint(socket))
        async with asyncio.timeout(30), aclosing(client.infill(call("a = "))) as events:
            await anext(events)
            oracle.show("a = z", 5, "")
            async for _ in events:
                if is_counted():
                    break
        await client.aclose()

    with an_engine(oracle, 30.0) as (engine, socket):
        asyncio.run(type_something_else(socket, lambda: engine.counts().wasted_passes == 1))
    assert engine.counts().cancels == 1


def test_what_is_fetched_ahead_waits_for_what_is_typed():
    async def both(socket: Path) -> list[str]:
        client = EngineClient(Endpoint(socket))
        ended: list[str] = []

        async def one(priority: Priority) -> None:
            async for _ in client.infill(call("a = ", priority=priority)):
                pass
            ended.append(priority)

        ahead = asyncio.create_task(one("prefetch"))
        async with asyncio.timeout(30):
            while not (await client.health()).busy:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.gather(one("typing"), ahead)
        await client.aclose()
        return ended

    with an_engine(knowing("a = ", LINE), 40.0) as (engine, socket):
        assert asyncio.run(both(socket)) == ["typing", "prefetch"]
    assert engine.counts().prefetches == 1
