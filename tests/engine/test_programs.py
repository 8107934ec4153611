"""`Client` and `AsyncClient`, against a real server with a scripted backend."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from engine.client import Answer, AsyncClient, Client
from engine.errors import (
    ConfigError,
    ContextExceeded,
    EngineGone,
    EngineUnavailable,
    RequestError,
    UnknownModel,
)
from tests.engine.fakes import DEADLINE_S, FakeBackend, Gate, RunningEngine, eventually, running_engine

HELLO = [{"role": "user", "content": "hello"}]
GUIDE = Path(__file__).parents[2] / "docs/chat.md"


def at(engine: RunningEngine) -> str:
    return f"unix://{engine.place.socket}"


def both(folder: Path, ask: Callable[[Client | AsyncClient], Any], backend: FakeBackend | None = None) -> Any:
    """What `ask` gets of the one client, which has to be what it gets of the other."""

    async def later(url: str) -> Any:
        async with AsyncClient(url) as client:
            asked = ask(client)
            return [event async for event in asked] if hasattr(asked, "__aiter__") else await asked

    with running_engine(folder, backend) as engine:
        with Client(at(engine)) as client:
            asked = ask(client)
            found = list(asked) if hasattr(asked, "__next__") else asked
        assert said(asyncio.run(later(at(engine)))) == said(found)
    return found


def said(answers: Any) -> Any:
    """Of answers, what is the same each time."""
    if isinstance(answers, dict):
        return {name: value for name, value in answers.items() if name != "time_per_output_token"}
    several = answers if isinstance(answers, list) else [answers]
    return [(answer.text, answer.finish_reason, answer.tokens) for answer in several]


def test_a_completion_is_text_with_its_counts(tmp_path: Path) -> None:
    answer = both(tmp_path, lambda client: client.complete("ab", max_tokens=3))
    assert (answer.text, answer.finish_reason) == ("def", "length")
    assert answer.umbrella.tokens.generated == 3
    assert answer.body["usage"]["completion_tokens"] == 3


def test_a_chat_streams_and_ends_with_its_usage(tmp_path: Path) -> None:
    events = both(tmp_path, lambda client: client.chat(HELLO, stream=True, max_tokens=3))
    assert len("".join(event.text for event in events)) == 3
    assert [event.finish_reason for event in events if event.finish_reason] == ["length"]
    assert events[-1].body["usage"]["completion_tokens"] == 3
    texts = [event for event in events if event.text]
    assert [event.umbrella.tokens.generated for event in texts] == [1, 2, 3]


def test_text_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path: Path) -> None:
    odd = "a\x85b\N{LINE SEPARATOR}c"
    backend = FakeBackend(answer=odd)
    events = both(
        tmp_path, lambda client: client.complete([0, 0, 0, 0, 0], stream=True, max_tokens=5), backend
    )
    assert "".join(event.text for event in events) == odd


def test_what_umbrellas_client_was_asked_is_answered_as_it_was(tmp_path: Path) -> None:
    wanted = {
        "context": "ab",
        "max_new_tokens": 3,
        "temperature": 0.0,
        "topp": 0.9,
        "repetition_penalty": 1.05,
    }
    output = both(tmp_path, lambda client: client.get_output(**wanted))
    assert output.items() >= wanted.items()
    assert output["generated_text"] == "def"
    assert output["generated_tokens"] == [*b"def"]
    assert output["avg_accept_tokens"] == 1
    assert output["time_per_output_token"] >= 0


def test_umbrellas_client_may_send_ids_and_gets_nothing_for_nothing(tmp_path: Path) -> None:
    output = both(tmp_path, lambda client: client.get_output(input_ids=[0, *b"ab"], max_new_tokens=2))
    assert output["generated_text"] == "de"
    nothing = {
        "generated_text": "",
        "generated_tokens": [],
        "avg_accept_tokens": 0,
        "time_per_output_token": 0,
    }
    for empty in ({"context": ""}, {"input_ids": []}, {"context": "ab", "max_new_tokens": 0}):
        output = both(tmp_path, lambda client, empty=empty: client.get_output(**empty))
        assert output == {**empty, **nothing}


def read_one_and_close(url: str, _gate: Gate) -> None:
    with Client(url) as client, closing(client.chat(HELLO, stream=True)) as events:
        assert any(event.text for event in events)


def read_one_and_leave_the_client(url: str, _gate: Gate) -> None:
    with Client(url) as client:
        events = client.chat(HELLO, stream=True)
        assert any(event.text for event in events)
    with pytest.raises(EngineGone):
        next(events)


def read_one_and_close_later(url: str, _gate: Gate) -> None:
    async def read() -> None:
        async with AsyncClient(url) as client, aclosing(client.complete("ab", stream=True)) as events:
            assert (await anext(events)).text

    asyncio.run(read())


def be_cancelled_while_waiting_for_all(url: str, gate: Gate) -> None:
    async def wait() -> None:
        async with AsyncClient(url) as client:
            task = asyncio.create_task(client.chat(HELLO))
            await asyncio.to_thread(gate.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(wait())


@pytest.mark.parametrize(
    "give_up",
    [
        read_one_and_close,
        read_one_and_leave_the_client,
        read_one_and_close_later,
        be_cancelled_while_waiting_for_all,
    ],
)
def test_giving_up_cancels_in_the_engine_before_its_next_layer(
    tmp_path: Path, give_up: Callable[[str, Gate], None]
) -> None:
    gate = Gate(layer=1)
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        if give_up is not be_cancelled_while_waiting_for_all:
            gate.step()
        give_up(at(engine), gate)
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        started = engine.metric("umbrella_layers_started_total")
        gate.release()
        eventually(lambda: not engine.http.get("/health").json()["busy"])
        assert engine.metric("umbrella_layers_started_total") == started


def test_any_number_of_tasks_may_ask_at_once(tmp_path: Path) -> None:
    async def ask(url: str) -> list[Answer]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(client.complete("ab" + "c" * n, max_tokens=1) for n in range(20)))

    with running_engine(tmp_path) as engine:
        texts = [answer.text for answer in asyncio.run(ask(at(engine)))]
    assert texts == [*"defghijklmnopqrstuvw"]


def test_refusals_and_failures_are_our_errors(tmp_path: Path) -> None:
    with running_engine(tmp_path, FakeBackend(max_length=64)) as engine, Client(at(engine)) as client:
        with pytest.raises(RequestError, match="temperature") as caught:
            client.complete("ab", temperature=-1)
        assert caught.value.field == "temperature"
        with pytest.raises(UnknownModel):
            next(client.chat(HELLO, stream=True, model="nobody"))
        with pytest.raises(EngineUnavailable, match="failed inside"):
            client.complete("explode", max_tokens=1)
    with pytest.raises(EngineGone, match=f"No engine answers at {re.escape(at(engine))}.*base_url is right"):
        asyncio.run(AsyncClient(at(engine)).complete("ab"))
    with pytest.raises(EngineGone, match=r"No engine answers at http://127\.0\.0\.1:1 "):
        Client("http://127.0.0.1:1").complete("ab")


def test_a_context_that_is_exceeded_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ContextExceeded, match="too long"):
        answered_with(tmp_path, 400, {"error": {"message": "too long", "code": "context_length_exceeded"}})


@pytest.mark.parametrize("answer", ["nonsense", [], {"choices": 3}, {"choices": [{"text": 1}]}])
def test_an_answer_that_makes_no_sense_is_our_error_too(tmp_path: Path, answer: object) -> None:
    with pytest.raises(EngineUnavailable, match=r"makes no sense"):
        answered_with(tmp_path, 200, answer)


def answered_with(folder: Path, status: int, body: object) -> None:
    """Have a client ask somebody who gives one answer."""

    async def run() -> None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            data = json.dumps(body).encode()
            writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        path = folder / "engine.sock"
        server = await asyncio.start_unix_server(reply, path=path)
        async with server, AsyncClient(f"unix://{path}") as client:
            await asyncio.wait_for(client.complete("ab"), DEADLINE_S)

    asyncio.run(run())


@pytest.mark.parametrize("suffix", ["", "/v1"])
def test_an_engine_at_a_port_is_asked_with_its_token(tmp_path: Path, suffix: str) -> None:
    with running_engine(tmp_path, with_tcp=True) as engine:
        assert engine.tcp is not None
        url = f"{engine.tcp.base_url}{suffix}"
        with Client(url, token=engine.tcp.token) as client:
            assert client.complete("ab", max_tokens=1).text == "d"
        with Client(url, token="wrong") as client, pytest.raises(EngineGone, match="the argument token"):
            client.complete("ab")


def test_without_an_address_the_users_own_engine_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(tmp_path))
    with running_engine(tmp_path) as engine:
        eventually(lambda: engine.http.get("/health").json()["state"] == "ready")
        with Client() as client:
            assert client.complete("ab", max_tokens=1).text == "d"
    with pytest.raises(ConfigError, match="cannot be read"):
        Client(config=tmp_path / "none.toml").complete("ab")


def test_the_guides_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(tmp_path))
    [example] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    with running_engine(tmp_path) as engine:
        eventually(lambda: engine.http.get("/health").json()["state"] == "ready")
        exec(example, {})
    [whole, streamed] = capsys.readouterr().out.split("\n")
    assert whole == streamed
    assert len(whole) == 16
