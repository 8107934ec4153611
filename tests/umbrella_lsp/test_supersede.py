"""One answer in the making for each document."""

from __future__ import annotations

import asyncio

import pytest

from umbrella_lsp.supersede import LatestOnly


async def forever(ended: list[str], name: str) -> str:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)
    return name


async def at_once(name: str) -> str:
    return name


def test_a_newer_request_ends_the_older_one_and_gives_it_none() -> None:
    async def scenario() -> None:
        ended: list[str] = []
        latest = LatestOnly[str]()
        older = asyncio.create_task(latest.run("a", forever(ended, "older")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await latest.run("a", at_once("newer")) == "newer"
        assert await older is None
        assert ended == ["older"]

    asyncio.run(scenario())


def test_documents_do_not_end_each_others_requests() -> None:
    async def scenario() -> None:
        ended: list[str] = []
        latest = LatestOnly[str]()
        other = asyncio.create_task(latest.run("a", forever(ended, "a")))
        await asyncio.sleep(0)
        assert await latest.run("b", at_once("b")) == "b"
        assert not other.done()
        latest.supersede("a")
        assert await other is None

    asyncio.run(scenario())


def test_a_cancel_of_the_caller_is_raised_and_ends_the_work() -> None:
    async def scenario() -> None:
        ended: list[str] = []
        latest = LatestOnly[str]()
        caller = asyncio.create_task(latest.run("a", forever(ended, "a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended == ["a"]
        latest.supersede("a")

    asyncio.run(scenario())
