"""Who is asked, and who waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx

from engine.config_tables import UpstreamName
from engine.remote.pool import Pool
from engine.remote.upstream import Upstream
from tests.engine.remote.scripted import PATIENT

CHAT, TYPING, PREFETCH = (3, 0), (1, 1), (5, 2)


UNREACHABLE = {
    "untrusted": httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"),
    "plain": httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number"),
    "refused": httpx.ConnectError("All connection attempts failed"),
    "silent": httpx.ConnectTimeout(""),
    "broken": httpx.RemoteProtocolError("illegal status line"),
    "odd": ValueError("a secret"),
}


def listing(request: httpx.Request) -> httpx.Response:
    if error := UNREACHABLE.get(request.url.host):
        raise error
    if request.url.host == "down":
        return httpx.Response(500)
    return httpx.Response(200, content=_streamed(b'{"data": [{"id": "theirs"}]}'))


async def _streamed(data: bytes) -> AsyncIterator[bytes]:
    yield data


@asynccontextmanager
async def pool(*hosts: str, max_requests: int = 1) -> AsyncGenerator[tuple[Pool, Sequence[Upstream]]]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(listing)) as client:
        named = [UpstreamName(f"http://{host}", max_requests=max_requests) for host in hosts]
        upstreams = [Upstream(each, client, replace(PATIENT, longest_pause_s=60.0), {}) for each in named]
        made = Pool(upstreams, PATIENT)
        made.want()
        await made.known()
        await made.look_now()
        yield made, upstreams
        await made.stop()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_when_all_are_full_typing_goes_before_chat_and_chat_before_prefetch() -> None:
    async def run() -> list[tuple[int, int]]:
        order = list[tuple[int, int]]()
        async with pool("a") as (made, (only,)):
            assert await made.lease((0, 9), ()) is only

            async def ask(key: tuple[int, int]) -> None:
                leased = await made.lease(key, ())
                assert leased
                order.append(key)
                await asyncio.sleep(0)
                made.give_back(leased)

            tasks = [asyncio.create_task(ask(key)) for key in (PREFETCH, CHAT, TYPING)]
            await settle()
            assert not order
            made.give_back(only)
            await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == [TYPING, CHAT, PREFETCH]


def test_a_place_is_not_lost_with_whoever_was_to_have_it() -> None:
    async def run() -> None:
        async with pool("a") as (made, (only,)):
            await made.lease((0, 9), ())
            leaving, staying = (asyncio.create_task(made.lease(key, ())) for key in (TYPING, CHAT))
            await settle()
            made.give_back(only)
            leaving.cancel()
            async with asyncio.timeout(5):
                assert await staying is only

    asyncio.run(run())


def test_requests_go_to_whoever_is_less_busy_and_quicker() -> None:
    async def run() -> None:
        async with pool("quick", "slow", max_requests=9) as (made, (quick, slow)):
            slow._measured(400.0)  # pyright: ignore[reportPrivateUsage]
            chosen = [await made.lease((0, count), ()) for count in range(9)]
            assert chosen.count(slow) == 1
            assert chosen[:7].count(quick) == 7
            long_after = time.monotonic() + 600
            assert slow.load(long_after) < quick.load(long_after)

    asyncio.run(run())


def test_nobody_who_is_down_or_avoided_is_leased() -> None:
    async def run() -> None:
        async with pool("down", "a", "b") as (made, (down, a, b)):
            assert made.up == 2
            assert down.name in made.problems
            assert await made.lease((0, 0), {a}) is b
            assert await made.lease((0, 1), {a, b}) is None

    asyncio.run(run())


def test_after_a_failure_one_request_at_a_time_is_risked_until_it_answers() -> None:
    async def run() -> None:
        async with pool("a", max_requests=9) as (made, (only,)):
            only.failures = 1
            await made.lease((0, 0), ())
            waiting = asyncio.create_task(made.lease((0, 1), ()))
            await settle()
            assert not waiting.done()
            only._answered(1.0)  # pyright: ignore[reportPrivateUsage]
            assert await waiting is only

    asyncio.run(run())


def test_nobody_waits_behind_somebody_who_wants_another_server() -> None:
    async def run() -> None:
        async with pool("a", "b") as (made, (a, b)):
            assert {await made.lease((0, 0), ()), await made.lease((0, 1), ())} == {a, b}
            waiting = asyncio.create_task(made.lease(TYPING, {a}))
            behind = asyncio.create_task(made.lease(CHAT, ()))
            await settle()
            made.give_back(a)
            assert await behind is a
            assert not waiting.done()
            made.give_back(b)
            assert await waiting is b

    asyncio.run(run())


def test_somebody_who_is_busy_is_asked_as_soon_as_he_wants_to_be() -> None:
    async def run() -> None:
        async with pool("a") as (made, (only,)):
            only.free_at = time.monotonic() + 0.02
            async with asyncio.timeout(5):
                assert await made.lease(TYPING, ()) is only
            assert time.monotonic() >= only.free_at

    asyncio.run(run())


def test_why_a_server_cannot_be_asked_is_said() -> None:
    async def run() -> dict[str, str]:
        async with pool(*UNREACHABLE) as (_, upstreams):
            return {each.name: each.problem.removeprefix(f"{each.name} ") for each in upstreams}

    problems = asyncio.run(run())
    assert problems["untrusted"].startswith("cannot be trusted ([SSL: CERTIFICATE_VERIFY_FAILED]")
    assert "SSL_CERT_FILE" in problems["untrusted"]
    assert problems["plain"].startswith("does not speak TLS")
    assert problems["refused"] == problems["silent"] == "cannot be reached"
    assert problems["broken"] == "broke off (RemoteProtocolError)"
    assert problems["odd"] == "cannot be asked (ValueError)"
