"""Servers that fail, at every stage and in every way: whoever asked is told, and nobody else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from engine.errors import EngineBusy, EngineUnavailable, RequestError, UmbrellaError
from engine.protocol import StopReason
from engine.remote.upstream import Patience
from tests.engine.fakes import DEADLINE_S, Receiver, eventually
from tests.engine.remote.scripted import (
    HASTY,
    PATIENT,
    STREAM,
    Call,
    Script,
    Scripted,
    answer,
    asked,
    event,
    names,
    remote,
    says,
    scripted,
    then,
    whole,
)


def _for_ever(data: bytes, first: bytes = b"") -> Script:
    async def script(call: Call) -> None:
        await call.send(STREAM + first)
        with suppress(ConnectionError):
            while True:
                await call.send(data)
                await asyncio.sleep(0.01)

    return script


BEFORE_ANYTHING = {
    "hangs up": (says(b""), "broke off"),
    "says nothing": (then(b""), "does not answer"),
    "says nothing but headers": (then(STREAM), "does not answer"),
    "pings for ever": (then(STREAM + b": ping\n\n" * 3), "does not answer"),
    "is a web page": (says(answer("200 OK", b"<html>", Content_Type="text/html")), "text/html instead of"),
    "does not stream": (
        says(answer("200 OK", b"{}", Content_Type="application/json")),
        "instead of a stream",
    ),
    "speaks another protocol": (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "broke off"),
    "sends us elsewhere": (
        says(answer("307 Temporary Redirect", Location="http://x/")),
        "sends us elsewhere",
    ),
    "streams something else": (says(STREAM + b"data: [1, 2]\n\n"), "is no completion"),
    "has wrong types": (says(STREAM + b'data: {"choices": [{"text": 3}]}\n\n'), "is no completion"),
    "nests for ever": (says(STREAM + b"data: " + b"[" * 100_000 + b"\n\n"), "is no completion"),
    "has a line without an end": (says(STREAM + b"data: " + b"x" * 1_100_000), "has no end"),
    "says nothing for ever": (_for_ever(b'data: {"choices": []}\n\n'), "does not answer"),
    "refuses for ever": (then(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\n{"), "does not answer"),
    "is no text": (says(STREAM + b'data: {"choices": [{"text": "\xff"}]}\n\n'), "is no completion"),
    "ends at once": (says(STREAM), "its text has no end"),
    "is overloaded": (says(answer("502 Bad Gateway")), "502"),
}


@pytest.mark.parametrize(("script", "message"), BEFORE_ANYTHING.values(), ids=BEFORE_ANYTHING.keys())
def test_what_goes_wrong_before_anything_came_is_said_or_done_elsewhere(script: Script, message: str) -> None:
    bad, good = Scripted(script), Scripted(says(whole("fine")))
    alone, helped = Receiver(), Receiver()

    def patient(limit_s: float, retry_s: float) -> Patience:
        limit_s = limit_s if message == "does not answer" else DEADLINE_S
        return replace(PATIENT, first_byte_s=limit_s, next_byte_s=limit_s, retry_s=retry_s)

    with scripted(bad, good):
        with remote(names(bad), patient(0.05, retry_s=0.0)) as executor:
            executor.submit(asked(), alone)
            alone.wait()
        with remote(names(bad, good), patient(0.3, retry_s=DEADLINE_S)) as executor:
            executor.submit(asked(), helped)
            assert helped.wait().text == "fine"
            if executor.message:
                assert executor.message.startswith("1 of 2 servers answer")
    assert isinstance(alone.error, EngineUnavailable)
    assert message in str(alone.error)
    assert f"127.0.0.1:{bad.port}" in str(alone.error)


IN_THE_MIDDLE = {
    "hangs up": (says(STREAM + event("a")), "its text has no end"),
    "hangs": (then(STREAM + event("a")), "does not answer"),
    "breaks off": (
        says(STREAM.replace(b"Connection: close", b"Content-Length: 9999") + event("a")),
        "broke off",
    ),
    "turns to nothing": (_for_ever(b'data: {"usage": {}}\n\n', event("a")), "does not answer"),
    "turns to garbage": (says(STREAM + event("a") + b"data: <html>\n\n"), "is no completion"),
    "fails": (
        says(STREAM + event("a") + b'data: {"error": {"message": "out of memory"}}\n\n'),
        "out of memory",
    ),
    "never ends": (says(STREAM + event("a") + event("x" * 6000) + event("")), "longer than what was asked"),
}


@pytest.mark.parametrize(("script", "message"), IN_THE_MIDDLE.values(), ids=IN_THE_MIDDLE.keys())
def test_what_goes_wrong_half_way_is_said_and_the_text_so_far_stays(script: Script, message: str) -> None:
    server, received = Scripted(script), Receiver()
    with scripted(server), remote(names(server), replace(PATIENT, next_byte_s=0.1)) as executor:
        executor.submit(asked(), received)
        received.wait()
    assert [chunk.text for chunk in received.chunks] == ["a"]
    assert isinstance(received.error, EngineUnavailable)
    assert message in str(received.error)
    assert len(server.calls) == 1, "what has begun is never asked again"


BEHIND_THE_END = {
    "a line is cut": says(STREAM + event("a") + event("b", "stop").rstrip()),
    "the connection is": says(
        STREAM.replace(b"Connection: close", b"Content-Length: 9999") + event("ab", "stop")
    ),
    "counts are garbage": says(STREAM + event("ab", "stop") + b'data: {"usage": "none"}\n\n'),
    "nothing comes": then(STREAM + event("ab", "stop")),
}


@pytest.mark.parametrize("script", BEHIND_THE_END.values(), ids=BEHIND_THE_END.keys())
def test_what_goes_wrong_behind_the_end_of_a_text_does_not_matter(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.remote.upstream.FAREWELL_S", 0.05)
    server, received = Scripted(script), Receiver()
    with scripted(server), remote(names(server)) as executor:
        executor.submit(asked(), received)
        assert received.wait().text == "ab"
        assert executor.message == ""
    assert received.ending.stop is StopReason.END


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        ("400 Bad Request", RequestError, "too long"),
        ("422 Unprocessable", RequestError, "too long"),
        ("404 Not Found", EngineUnavailable, "Check url and model"),
        ("500 Internal Server Error", EngineUnavailable, "Its log may say why"),
    ],
)
def test_a_refusal_is_passed_on_and_costs_the_server_nothing(
    status: str, kind: type[UmbrellaError], message: str
) -> None:
    server = Scripted(says(answer(status, b'{"error": {"message": "too long"}}')))
    refused, after = Receiver(), Receiver()
    with scripted(server), remote(names(server), HASTY) as executor:
        executor.submit(asked(), refused)
        assert isinstance(refused.wait().error, kind)
        server.script = says(whole("fine"))
        executor.submit(asked(), after)
        assert after.wait().text == "fine"
        assert executor.message == ""
    assert message in str(refused.error)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_busy_server_is_asked_again_when_it_wants_to_be(status: str) -> None:
    server, received = Scripted(says(b"")), Receiver()

    async def first_busy(call: Call) -> None:
        server.script = says(whole("fine"))
        await call.send(answer(status, Retry_After="0"))

    server.script = first_busy
    with scripted(server), remote(names(server), PATIENT) as executor:
        executor.submit(asked(), received)
        assert received.wait().text == "fine"
    assert len(server.calls) == 2


def test_a_server_that_is_busy_for_longer_is_not_waited_for() -> None:
    server = Scripted(says(answer("429 Too Many Requests", Retry_After="3600")))
    received, next_one = Receiver(), Receiver()
    with scripted(server), remote(names(server), HASTY) as executor:
        executor.submit(asked(), received)
        assert isinstance(received.wait().error, EngineBusy)
        executor.submit(asked(), next_one)
        assert isinstance(next_one.wait().error, EngineBusy)
    assert len(server.calls) == 1


def test_one_that_fails_does_not_touch_another() -> None:
    async def script(call: Call) -> None:
        if call.body["max_tokens"] == 1:
            await call.send(STREAM + event("a") + b"data: <\n\n")
        else:
            await call.send(STREAM + event("b"))
            await gone.wait()
            await call.send(event("c", "stop") + b"data: [DONE]\n\n")

    gone = asyncio.Event()
    server, failing, other = Scripted(script), Receiver(), Receiver()
    with scripted(server), remote(names(server)) as executor:
        executor.submit(asked(), other)
        eventually(lambda: bool(other.chunks))
        executor.submit(asked(max_tokens=1), failing)
        assert failing.wait().error is not None
        server.do(gone.set)
        assert other.wait().text == "bc"
    assert other.ending.stop is StopReason.END
