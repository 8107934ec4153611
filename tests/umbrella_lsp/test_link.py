"""The way to the engine, and to the next one."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from engine.client import Endpoint, InfillCall
from engine.errors import EngineGone
from engine.protocol import Health, HealthState
from tests.umbrella_lsp.fakes import ScriptedStreams, events
from umbrella_lsp.errors import EngineLost, EngineUnavailable, RequestError
from umbrella_lsp.link import EngineLink

ENDPOINT = Endpoint(socket=Path("/nowhere/engine.sock"))


class FakeClient:
    """Stands for an EngineClient, one a connection; all share one script."""

    streams: ScriptedStreams
    state: HealthState = "ready"
    made = 0
    closed = 0

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        type(self).made += 1
        self.infill = type(self).streams.infill

    async def health(self) -> Health:
        return Health(type(self).state, 1.0, package="", protocol=1, config_hash="", pid=1)

    async def aclose(self) -> None:
        type(self).closed += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    class Client(FakeClient):
        pass

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
    with pytest.raises(EngineUnavailable, match="gone"):
        asyncio.run(text_from(EngineLink(lambda: ENDPOINT)))
    assert client.made == 2


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
    client.streams = ScriptedStreams([[*events("name")]])
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
    client.streams = ScriptedStreams([[*events("name")]])
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
    client.streams = ScriptedStreams([[*events("name")]])
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
