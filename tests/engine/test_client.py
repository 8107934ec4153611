from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from engine.client import Endpoint, EngineClient, InfillCall, StreamEvent, ask_to_drain, fetch_health
from engine.errors import CheckpointError, EngineGone, EngineUnavailable, ProtocolMismatch, RequestError
from engine.progress import Progress
from engine.protocol import Segment, StopReason, UmbrellaRequest
from tests.engine.fake_parts import FakeBranch
from tests.engine.fakes import (
    DEADLINE_S,
    LAYERS,
    FakeBackend,
    Gate,
    RunningEngine,
    Script,
    eventually,
    running_engine,
)


def stream(endpoint: Endpoint, call: InfillCall) -> list[StreamEvent]:
    async def collect() -> list[StreamEvent]:
        client = EngineClient(endpoint)
        try:
            return [event async for event in client.infill(call)]
        finally:
            await client.aclose()

    return asyncio.run(collect())


def test_a_stream_is_text_and_what_is_known_so_far(tmp_path: Path) -> None:
    segments = (Segment("prefix", "ab"), Segment("suffix", "c"))
    call = InfillCall(umbrella=UmbrellaRequest(segments=segments), max_tokens=3)
    with running_engine(tmp_path) as engine:
        events = stream(engine.endpoint, call)
    assert "".join(event.text for event in events) == "efg"
    assert [event.final for event in events] == [False, False, True]
    assert [event.reply.tokens.generated for event in events] == [1, 2, 3]
    assert events[-1].reply.stop is StopReason.LENGTH
    assert [[fate.fate for fate in event.reply.segments] for event in events] == [["kept", "kept"], [], []]
    assert [event.reply.text_offsets for event in events] == [(0,), (1,), (2,)]


def test_connections_are_kept_and_health_is_typed(tmp_path: Path) -> None:
    async def ask_twice(endpoint: Endpoint) -> list[str]:
        client = EngineClient(endpoint)
        states = [(await client.health()).state, (await client.health()).state]
        await client.aclose()
        return states

    with running_engine(tmp_path) as engine:
        eventually(lambda: fetch_health(engine.endpoint).state == "ready")
        assert asyncio.run(ask_twice(engine.endpoint)) == ["ready", "ready"]


def test_closing_the_iterator_cancels_in_the_engine(tmp_path: Path) -> None:
    gate = Gate(layer=1)

    async def read_one_and_close(endpoint: Endpoint) -> None:
        client = EngineClient(endpoint)
        async with aclosing(client.infill(InfillCall("ab", max_tokens=1000))) as events:
            async for event in events:
                assert event.text == "d"
                break
        await client.aclose()

    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        gate.step()
        asyncio.run(read_one_and_close(engine.endpoint))
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        started = engine.metric("umbrella_layers_started_total")
        gate.release()
        cancelled = 'umbrella_requests_total{endpoint="/infill",outcome="cancelled"}'
        eventually(lambda: engine.metric(cancelled) == 1)
        assert engine.metric("umbrella_layers_started_total") == started
        assert engine.metric("umbrella_layers_started_after_cancel_total") == 0


def test_cancelling_the_task_that_reads_cancels_in_the_engine(tmp_path: Path) -> None:
    gate = Gate(layer=1)

    async def read_and_be_cancelled(endpoint: Endpoint) -> None:
        client = EngineClient(endpoint)

        async def read() -> None:
            async for _event in client.infill(InfillCall("ab")):
                pass

        task = asyncio.create_task(read())
        await asyncio.to_thread(gate.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.aclose()

    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        asyncio.run(read_and_be_cancelled(engine.endpoint))
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        gate.release()


def test_the_main_text_is_complete_before_alternatives_begin_and_what_follows_may_be_left(
    tmp_path: Path,
) -> None:
    script, gate = Script(), Gate()
    script.acts[3 * LAYERS + 1] = lambda: gate(0)  # In the first pass of an alternative.
    several = InfillCall("ab", umbrella=UmbrellaRequest(session="editor", n=2), max_tokens=3)

    async def read_the_main_text(endpoint: Endpoint) -> None:
        client, texts = EngineClient(endpoint), list[str]()
        async with aclosing(client.infill(several)) as events:
            async for event in events:
                texts.append(event.text)
                if event.reply.stop is not None:
                    assert event.reply.index == 0
                    break
        assert texts == ["d", "e", "f"]
        await client.aclose()

    backend = FakeBackend(branches=[FakeBranch.of(1, "X", -1.0)], in_layer=script)
    with running_engine(tmp_path, backend) as engine:
        asyncio.run(read_the_main_text(engine.endpoint))
        gate.wait()
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        gate.release()
        typed_on = InfillCall("abdef", umbrella=UmbrellaRequest(session="editor"), max_tokens=1)
        [event] = stream(engine.endpoint, typed_on)
        assert (event.text, event.reply.tokens.reused) == ("g", len("\0abdef"))
        assert engine.metric("umbrella_layers_started_total") == 3 * LAYERS + 1 + LAYERS


def test_a_refused_request_names_its_field(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        with pytest.raises(RequestError, match="n_predict must be") as caught:
            stream(engine.endpoint, InfillCall(max_tokens=-7))
        assert caught.value.field == "n_predict"


def test_a_failed_engine_says_why(tmp_path: Path) -> None:
    def load(_progress: Progress) -> FakeBackend:
        raise CheckpointError("model.safetensors is cut off")

    with (
        running_engine(tmp_path, load=load) as engine,
        pytest.raises(EngineUnavailable, match="is cut off") as caught,
    ):
        stream(engine.endpoint, InfillCall())
    assert not isinstance(caught.value, EngineGone)


def test_a_failure_in_mid_stream_is_raised_after_what_came_before(tmp_path: Path) -> None:
    def fail(_layer: int) -> None:
        if backend.target_slots[0].tokens[-1] == ord("b"):
            raise ZeroDivisionError

    backend, seen = FakeBackend(in_layer=fail), list[str]()

    async def read(endpoint: Endpoint) -> None:
        client = EngineClient(endpoint)
        try:
            async for event in client.infill(InfillCall()):
                seen.append(event.text)
        finally:
            await client.aclose()

    with (
        running_engine(tmp_path, backend) as engine,
        pytest.raises(EngineUnavailable, match="failed inside"),
    ):
        asyncio.run(read(engine.endpoint))
    assert seen == ["b"]


def test_the_end_of_an_engine_is_noticed_and_nothing_else_is_taken_for_it(tmp_path: Path) -> None:
    async def watch(engine: RunningEngine) -> None:
        assert engine.tcp is not None
        endings = [asyncio.create_task(EngineClient(at).ended()) for at in (engine.endpoint, engine.tcp)]
        client = EngineClient(engine.endpoint)
        for _ in range(2):  # Others' requests come and go meanwhile.
            assert [event async for event in client.infill(InfillCall("ab", max_tokens=1))]
        await client.aclose()
        assert not any(ending.done() for ending in endings)
        await asyncio.to_thread(ask_to_drain, engine.endpoint)
        await asyncio.wait_for(asyncio.gather(*endings), DEADLINE_S)

    with running_engine(tmp_path, with_tcp=True) as engine:
        asyncio.run(watch(engine))


def test_where_no_engine_is_it_has_ended(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(EngineClient(Endpoint(tmp_path / "engine.sock")).ended(), DEADLINE_S))


def test_no_engine_is_said_so(tmp_path: Path) -> None:
    nowhere = Endpoint(tmp_path / "engine.sock")
    with pytest.raises(EngineGone, match="No engine answers"):
        stream(nowhere, InfillCall())
    with pytest.raises(EngineGone, match="No engine answers"):
        fetch_health(nowhere)


def served_once(tmp_path: Path, answer: bytes, ask: Callable[[Endpoint], object]) -> None:
    """Let `ask` loose on a server that gives one `answer` and closes."""

    async def run() -> None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            # What is left unread would have the closing reset the connection, and the answer may be lost.
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_unix_server(reply, path=tmp_path / "engine.sock"):
            await asyncio.to_thread(ask, Endpoint(tmp_path / "engine.sock"))

    asyncio.run(run())


def test_a_stream_that_ends_before_its_end_is_an_error(tmp_path: Path) -> None:
    event = b'data: {"content": "a", "stop": false, "umbrella": {"timings": {}, "tokens": {}}}\n\n'
    with pytest.raises(EngineGone, match="ended a stream early"):
        served_once(tmp_path, event, lambda endpoint: stream(endpoint, InfillCall()))


@pytest.mark.parametrize(
    "answer", [b"data: []\n\n", b"data: nonsense\n\n", b'data: {"umbrella": {"tokens": 1}}\n\n']
)
def test_an_answer_that_makes_no_sense_is_a_mismatch(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="umbrella-engine stop"):
        served_once(tmp_path, answer, lambda endpoint: stream(endpoint, InfillCall()))


def test_another_protocols_health_is_read_as_far_as_needed(tmp_path: Path) -> None:
    found = list[int]()
    body = b'{"protocol": 99, "package": "9.0", "pid": 1, "state": {"all": "new"}}'
    served_once(tmp_path, body, lambda endpoint: found.append(fetch_health(endpoint).protocol))
    assert found == [99]


def test_tcp_works_with_the_token_and_no_proxy_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running_engine(tmp_path, with_tcp=True) as engine:
        assert engine.tcp is not None
        assert engine.tcp.token not in repr(engine.tcp)
        assert stream(engine.tcp, InfillCall("ab", max_tokens=1))[0].text == "d"
        assert fetch_health(engine.tcp).state == "ready"
        with pytest.raises(EngineUnavailable, match=r"engine\.token"):
            fetch_health(Endpoint(port=engine.tcp.port))


def test_client_and_launch_import_nothing_heavy_and_to_ask_takes_httpx_alone() -> None:
    heavy = ("torch", "transformers", "numpy", "httpx", "starlette", "uvicorn", "rich", "click", "pygments")
    loaded = f"print(*[n for n in {heavy} if n in sys.modules])"
    code = f"import sys, engine.client, engine.launch; {loaded}; engine.client.prepare(); {loaded}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "\nhttpx\n"
