"""The way to the engine, and to the next one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from engine.client import Endpoint, InfillCall
from engine.errors import EngineGone
from engine.protocol import Health, HealthState, UmbrellaRequest
from tests.umbrella_lsp.fakes import ScriptedStreams, events
from umbrella_lsp.errors import EngineLost, EngineUnavailable, RequestError
from umbrella_lsp.link import EngineLink, Failed, Found, Gone, LinkEvent, Looking, Streams

ENDPOINT = Endpoint(socket=Path("/nowhere/engine.sock"))
OTHER = Endpoint(url="http://localhost:1", notice="It is far.")


class FakeClient:
    """Stands for an EngineClient, one a connection; all share one script."""

    streams: ScriptedStreams
    state: HealthState = "ready"
    made = 0
    closed = 0
    all: ClassVar[list[FakeClient]]

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_watched = False
        self.end = asyncio.Event()
        type(self).made += 1
        type(self).all.append(self)
        self.infill = type(self).streams.infill

    async def health(self) -> Health:
        return Health(type(self).state, 1.0, package="", protocol=1, config_hash="", pid=1)

    async def ended(self) -> None:
        self.is_watched = True
        await self.end.wait()

    async def aclose(self) -> None:
        type(self).closed += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    class Client(FakeClient):
        streams = ScriptedStreams([[*events("name")]])
        all: ClassVar = []

    monkeypatch.setattr("umbrella_lsp.link.EngineClient", Client)
    return Client


async def text_from(link: EngineLink) -> str:
    return "".join([event.text async for event in link.infill(InfillCall())])


def test_an_engine_that_is_gone_is_found_again_and_asked_again(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[EngineGone("gone")], [*events("name")]])
    assert asyncio.run(text_from(EngineLink(lambda: ENDPOINT))) == "name"
    assert client.made == 2


def test_a_second_failure_is_the_callers(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[EngineGone("gone")]])
    told = Told()

    async def scenario() -> None:
        link = EngineLink(lambda: ENDPOINT, told, search_every_s=60.0)
        for _ in range(3):  # Nor is an engine that crashes at every request started at every key.
            with pytest.raises(EngineUnavailable, match="gone"):
                await text_from(link)

    asyncio.run(scenario())
    assert client.made == 2
    assert [type(event) for event in told[-3:]] == [Gone, Streams, Failed]


def test_text_that_was_handed_out_is_never_given_twice(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[events("na")[0], EngineGone("crashed")], [*events("name")]])
    link = EngineLink(lambda: ENDPOINT)

    async def scenario() -> None:
        with pytest.raises(EngineLost, match="crashed"):
            await text_from(link)
        assert await text_from(link) == "name"

    asyncio.run(scenario())
    assert client.made == 2


def test_what_an_engine_says_of_one_request_costs_no_connection(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[EngineUnavailable("too many wait")]])
    with pytest.raises(EngineUnavailable, match="too many wait") as caught:
        asyncio.run(text_from(EngineLink(lambda: ENDPOINT)))
    assert caught.type is EngineUnavailable
    assert (len(client.streams.calls), client.made, client.closed) == (1, 1, 0)


def test_an_engine_that_shuts_down_is_replaced(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[EngineUnavailable("shutting down")], [*events("name")]])
    client.state = "draining"
    assert asyncio.run(text_from(EngineLink(lambda: ENDPOINT))) == "name"
    assert (client.made, client.closed) == (2, 1)


def test_a_lost_client_is_closed_when_its_last_stream_has_ended(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[*events("na", "me")], [EngineGone("gone")], [*events("name")]])

    async def scenario() -> None:
        link = EngineLink(lambda: ENDPOINT)
        running = link.infill(InfillCall())
        assert (await anext(running)).text == "na"
        assert await text_from(link) == "name"
        assert (client.made, client.closed) == (2, 0)
        assert [event.text async for event in running] == ["me", ""]
        assert client.closed == 1

    asyncio.run(scenario())


def test_a_refused_request_is_not_asked_again(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[RequestError("too long", "prompt")]])
    with pytest.raises(RequestError, match="too long"):
        asyncio.run(text_from(EngineLink(lambda: ENDPOINT)))
    assert len(client.streams.calls) == 1


def test_requests_share_one_search_and_one_connection(client: type[FakeClient]) -> None:
    searches: list[int] = []

    def find() -> Endpoint:
        searches.append(1)
        return ENDPOINT

    async def scenario() -> None:
        link = EngineLink(find)
        assert await asyncio.gather(text_from(link), text_from(link)) == ["name", "name"]
        await link.aclose()

    asyncio.run(scenario())
    assert (len(searches), client.made) == (1, 1)


def test_a_search_that_failed_is_begun_anew_after_a_while_and_not_at_every_key(
    client: type[FakeClient],
) -> None:
    searches: list[int] = []

    def find() -> Endpoint:
        searches.append(1)
        if len(searches) == 1:
            raise EngineUnavailable("none")
        return ENDPOINT

    async def fail_twice(link: EngineLink) -> None:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match="none"):
                await link.connect()
        assert len(searches) == 1

    async def scenario() -> None:
        await fail_twice(EngineLink(find, search_every_s=60.0))
        searches.clear()
        link = EngineLink(find, search_every_s=0.0)
        with pytest.raises(EngineUnavailable, match="none"):
            await link.connect()
        assert await text_from(link) == "name"

    asyncio.run(scenario())


def test_a_cancelled_request_leaves_the_search_to_the_others(client: type[FakeClient]) -> None:
    may_be_found = threading.Event()

    def find() -> Endpoint:
        may_be_found.wait(20)
        return ENDPOINT

    async def scenario() -> None:
        link = EngineLink(find)
        impatient, patient = (asyncio.create_task(text_from(link)) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        may_be_found.set()
        assert await patient == "name"
        assert impatient.cancelled()

    asyncio.run(scenario())


# What is told of the engine.


class Told(list[LinkEvent]):
    """What a link has told, and a way to wait for more."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, event: LinkEvent) -> None:
        self.append(event)
        self._news.set()

    async def until(self, event: LinkEvent) -> None:
        while event not in self:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)


def finding(*endpoints: Endpoint) -> Callable[[], Endpoint]:
    """Finds these one after the other."""
    left = iter(endpoints)
    return lambda: next(left)


def test_it_is_told_what_becomes_of_the_engine(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[*events("a")], [EngineGone("gone")], [*events("b")]])
    told = Told()

    async def scenario() -> None:
        link = EngineLink(finding(ENDPOINT, OTHER), told)
        assert [await text_from(link), await text_from(link)] == ["a", "b"]
        await link.aclose()

    asyncio.run(scenario())
    work = [Streams(1), Streams(0)]
    first, second = [Looking(), Found(ENDPOINT)], [Looking(), Found(OTHER)]
    assert told == [*first, *work, Streams(1), Gone(), Streams(0), *second, *work]


def test_what_is_asked_ahead_of_time_is_not_told(client: type[FakeClient]) -> None:
    client.streams = ScriptedStreams([[*events("a")]])
    told = Told()

    async def scenario() -> None:
        link = EngineLink(lambda: ENDPOINT, told)
        async for _ in link.infill(InfillCall(umbrella=UmbrellaRequest(priority="prefetch"))):
            pass
        await link.aclose()

    asyncio.run(scenario())
    assert told == [Looking(), Found(ENDPOINT)]


def test_a_failed_search_is_told_once() -> None:
    error = EngineUnavailable("none")

    def find() -> Endpoint:
        raise error

    async def scenario(told: Told) -> None:
        link = EngineLink(find, told, search_every_s=60.0)
        for _ in range(3):
            with pytest.raises(EngineUnavailable):
                await link.connect()
        assert told == [Looking(), Failed(error)]

    asyncio.run(scenario(Told()))


def test_the_end_of_an_engine_is_noticed_without_a_request(client: type[FakeClient]) -> None:
    told = Told()

    async def scenario() -> None:
        link = EngineLink(finding(ENDPOINT, ENDPOINT), told)
        await link.connect()
        client.all[0].end.set()
        await told.until(Gone())
        assert await text_from(link) == "name"
        await link.aclose()

    asyncio.run(scenario())
    assert told[:5] == [Looking(), Found(ENDPOINT), Gone(), Looking(), Found(ENDPOINT)]
    assert client.closed == 2


def test_the_end_of_a_connection_to_an_engine_elsewhere_means_nothing(client: type[FakeClient]) -> None:
    async def scenario() -> None:
        link = EngineLink(lambda: OTHER)
        assert await text_from(link) == "name"
        assert not client.all[0].is_watched
        await link.aclose()

    asyncio.run(scenario())


def test_another_engine_is_used_at_once_and_the_old_ones_streams_end_by_themselves(
    client: type[FakeClient],
) -> None:
    client.streams = ScriptedStreams([[*events("na", "me")], [*events("other")]])
    told = Told()

    async def scenario() -> None:
        link = EngineLink(finding(ENDPOINT, OTHER), told)
        running = link.infill(InfillCall())
        assert (await anext(running)).text == "na"
        link.retarget()
        assert Gone() not in told  # As far as anybody knows it goes on for others.
        assert await text_from(link) == "other"
        assert told.count(Found(OTHER)) == 1
        assert client.closed == 0
        assert [event.text async for event in running] == ["me", ""]
        assert client.closed == 1
        link.retarget()  # Nothing runs: its connections are closed now.
        await link.aclose()
        assert client.closed == 2

    asyncio.run(scenario())


def test_who_waits_while_the_engine_is_changed_gets_the_new_one(client: type[FakeClient]) -> None:
    may_be_found, told = threading.Event(), Told()
    places = finding(ENDPOINT, OTHER)

    def find() -> Endpoint:
        place = places()
        if place is ENDPOINT:
            may_be_found.wait(20)
        return place

    async def scenario() -> None:
        link = EngineLink(find, told)
        waiting = asyncio.create_task(text_from(link))
        await told.until(Looking())
        link.retarget()
        assert await waiting == "name"
        may_be_found.set()
        await link.aclose()

    asyncio.run(scenario())
    assert told[:3] == [Looking(), Looking(), Found(OTHER)]


def test_an_engine_that_is_ended_on_purpose_is_forgotten_before_it_ends(client: type[FakeClient]) -> None:
    told = Told()

    async def scenario() -> None:
        link = EngineLink(finding(ENDPOINT, ENDPOINT), told)
        await link.connect()

        def end() -> bool:
            assert told[-1] == Gone()
            return True

        assert await link.unload(end) is True
        assert told == [Looking(), Found(ENDPOINT), Gone()]
        with pytest.raises(EngineUnavailable, match="does not end"):
            await link.unload(unending)
        assert await text_from(link) == "name"
        await link.aclose()

    asyncio.run(scenario())


def unending() -> bool:
    raise EngineUnavailable("does not end")


def test_an_engine_that_does_not_start_keeps_nobody_from_ending() -> None:
    never = threading.Event()

    def find() -> Endpoint:
        never.wait(60)
        return ENDPOINT

    async def scenario() -> None:
        link = EngineLink(find)
        waiting = asyncio.create_task(link.connect())
        await asyncio.sleep(0)
        await link.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    never.set()
