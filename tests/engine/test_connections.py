"""What a connection may cost: time, number and bytes, told by raw sockets to a real server."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from engine.api.body import MAX_BODY_BYTES
from engine.config import EngineConfig
from engine.doors import TCP_LIMITS, Limits, listen_tcp
from tests.engine.fakes import DEADLINE_S, FakeBackend, Gate, RunningEngine, eventually, running_engine

NEVER_S = 1000.0
CALM = Limits(connections=8, turned_away=2, silent_s=NEVER_S, head_s=NEVER_S, body_s=NEVER_S)
"""Limits that nothing here reaches, for a test to lower one."""
SOON_S = 0.05


class Visitor:
    """A client of our TCP port that says what it likes."""

    def __init__(self, engine: RunningEngine) -> None:
        assert engine.tcp is not None
        self._token = engine.tcp.token
        self.socket = socket.create_connection(("127.0.0.1", engine.tcp.port), DEADLINE_S)

    def head(self, line: str = "POST /infill", length: int = 0, more: str = "") -> str:
        """A request's headers."""
        return (
            f"{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Length: {length}\r\n{more}\r\n"
        )

    def say(self, text: str | bytes) -> None:
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def answer(self) -> tuple[int, dict]:
        """Status and body of what comes until the connection is closed; 0 for nothing."""
        data = b""
        with suppress(ConnectionError):
            while more := self.socket.recv(1 << 16):
                data += more
        if not data:
            return 0, {}
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def status(self) -> int:
        """Of an answer whose connection stays open."""
        data = b""
        while b"\r\n" not in data:
            data += (more := self.socket.recv(1 << 16))
            if not more:
                raise ConnectionResetError
        return int(data.split()[1])


Visit = Callable[[], Visitor]


@contextmanager
def visited(
    tmp_path: Path, limits: Limits, backend: FakeBackend | None = None
) -> Generator[tuple[RunningEngine, Visit]]:
    """An engine with these limits over TCP, and a way to connect to it."""
    door = listen_tcp("127.0.0.1", 0, limits=limits)
    door.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # Who does not read is seen soon.
    with ExitStack() as stack:
        engine = stack.enter_context(running_engine(tmp_path, backend, door=door))
        sockets = stack.enter_context(ExitStack())

        def visit() -> Visitor:
            visitor = Visitor(engine)
            sockets.enter_context(visitor.socket)
            return visitor

        yield engine, visit


@pytest.fixture(scope="module")
def calm(home: Path) -> Iterator[tuple[RunningEngine, Visit]]:
    with visited(home / "calm", CALM) as both:
        yield both


@pytest.mark.parametrize("said", ["", "GET /health HT", "GET /health HTTP/1.1\r\nHost: localhost\r\nX-"])
def test_headers_that_do_not_come_are_not_waited_for(tmp_path: Path, said: str) -> None:
    with visited(tmp_path, replace(CALM, silent_s=SOON_S, head_s=SOON_S)) as (_, visit):
        visitor = visit()
        visitor.say(said)
        status, body = visitor.answer()
        assert status == (408 if said else 0)
        assert not said or "in time" in body["error"]["message"]


def test_who_says_nothing_is_shown_out_but_may_stay_at_the_users_own_socket(tmp_path: Path) -> None:
    with (
        visited(tmp_path, replace(CALM, silent_s=SOON_S)) as (engine, visit),
        socket.socket(socket.AF_UNIX) as own,
    ):
        own.connect(str(engine.place.socket))
        assert visit().answer() == (0, {})  # By then, who came before it would have been shown out too.
        assert select.select([own], [], [], 0) == ([], [], [])


@pytest.mark.parametrize("said", ["", '{"prompt": '])
def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, said: str) -> None:
    with visited(tmp_path, replace(CALM, body_s=SOON_S)) as (engine, visit):
        visitor = visit()
        visitor.say(visitor.head(length=1000) + said)
        status, body = visitor.answer()
        assert (status, body["error"]["code"]) == (408, 408)
        assert engine.http.get("/health").status_code == 200


def test_time_for_a_body_does_not_run_while_an_answer_is_written(tmp_path: Path) -> None:
    gate = Gate()
    limits = replace(CALM, head_s=SOON_S, body_s=SOON_S)
    with visited(tmp_path, limits, FakeBackend(in_layer=gate)) as (_, visit):
        slow, other = visit(), visit()
        slow.say(slow.head(length=2) + "{}")
        gate.wait()
        other.say(other.head(length=2) + "{")
        assert other.answer()[0] == 408
        gate.release()
        assert slow.status() == 200


def test_the_next_request_of_a_connection_has_its_own_time(tmp_path: Path) -> None:
    with visited(tmp_path, replace(CALM, head_s=0.2)) as (_, visit):
        visitor = visit()
        for _ in range(2):
            visitor.say(visitor.head("GET /health"))
            assert visitor.status() == 200
        visitor.say("GET /health")
        assert visitor.answer()[0] == 408


def test_a_connection_too_many_is_told_so_and_one_that_leaves_makes_room(tmp_path: Path) -> None:
    with visited(tmp_path, replace(CALM, connections=2)) as (engine, visit):
        first, second = visit(), visit()
        for visitor in (first, second):
            visitor.say(visitor.head("GET /health"))
            assert visitor.status() == 200
        third = visit()
        third.say(third.head("GET /health"))
        status, body = third.answer()
        assert (status, "Too many connections" in body["error"]["message"]) == (503, True)
        assert engine.http.get("/health").status_code == 200, "the Unix socket has room of its own"
        first.socket.close()

        def is_let_in() -> bool:
            again = visit()
            with suppress(ConnectionError):
                again.say(again.head("GET /health"))
                return again.status() == 200
            return False

        eventually(is_let_in)


def test_a_flood_of_connections_is_closed_unheard(tmp_path: Path) -> None:
    with visited(tmp_path, replace(CALM, connections=1, turned_away=1)) as (_, visit):
        statuses = []
        visitors = [visit() for _ in range(8)]
        for visitor in visitors[1:]:
            with suppress(ConnectionError):
                visitor.say(visitor.head("GET /health"))
            statuses.append(visitor.answer()[0])
        assert set(statuses) == {0, 503}
        assert statuses.count(503) <= 2


def test_a_half_closed_connection_is_told_to_stay_open(calm: tuple[RunningEngine, Visit]) -> None:
    engine, visit = calm
    for said, ended in (("POST /inf", "head"), ("body", "body")):
        visitor = visit()
        visitor.say(said if ended == "head" else visitor.head(length=100) + "{")
        visitor.socket.shutdown(socket.SHUT_WR)
        status, body = visitor.answer()
        assert (status, "Keep it open" in body["error"]["message"]) == (400, True)
    assert engine.http.get("/health").status_code == 200


def test_a_half_closed_connection_cancels_what_it_waits_for(tmp_path: Path) -> None:
    gate = Gate()
    with visited(tmp_path, CALM, FakeBackend(in_layer=gate)) as (engine, visit):
        visitor = visit()
        visitor.say(visitor.head(length=2) + "{}")
        gate.wait()
        visitor.socket.shutdown(socket.SHUT_WR)
        assert visitor.answer()[0] == 400
        gate.release()
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)


def test_who_goes_in_the_middle_of_a_body_leaves_no_trace(
    calm: tuple[RunningEngine, Visit], caplog: pytest.LogCaptureFixture
) -> None:
    engine, visit = calm
    for _ in range(3):
        visitor = visit()
        visitor.say(visitor.head(length=1000) + "{")
        visitor.socket.close()
    assert engine.http.get("/health").status_code == 200
    assert "Exception" not in caplog.text


def test_100_mb_are_refused_by_their_announcement(calm: tuple[RunningEngine, Visit]) -> None:
    _, visit = calm
    visitor = visit()
    visitor.say(visitor.head(length=100 << 20, more="Expect: 100-continue\r\n"))
    assert visitor.status() == 413


def test_a_client_that_sends_100_mb_before_it_reads_learns_why_it_is_refused(
    calm: tuple[RunningEngine, Visit],
) -> None:
    engine, visit = calm
    visitor = visit()
    visitor.say(visitor.head(length=100 << 20))
    for _ in range(100):
        visitor.say(bytes(1 << 20))
    assert visitor.status() == 413
    assert engine.tcp is not None
    with httpx.Client(base_url=engine.tcp.base_url, headers=engine.tcp.headers, trust_env=False) as http:
        response = http.post("/infill", content=iter([bytes(1 << 20)] * 20))
        assert response.status_code == 413
        assert f"{MAX_BODY_BYTES >> 20} MB" in response.json()["error"]["message"]
        assert http.get("/health").status_code == 200


def test_only_so_many_large_bodies_come_in_at_a_time(
    calm: tuple[RunningEngine, Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.api.body._large_bodies", threading.Semaphore(1))
    engine, visit = calm
    visitors = [visit(), visit()]
    for visitor in visitors:
        visitor.say(visitor.head(length=1 << 20) + "x" * (1 << 19))
    answered, _, _ = select.select([visitor.socket for visitor in visitors], [], [], DEADLINE_S)
    refused, taken = sorted(visitors, key=lambda visitor: visitor.socket not in answered)
    assert refused.status() == 503
    assert engine.http.post("/infill", json={"n_predict": 1}).status_code == 200
    taken.say("x" * (1 << 19))
    assert taken.status() == 400
    assert engine.http.post("/infill", json={"n_predict": 1, "x": "x" * (1 << 19)}).status_code == 200


def test_a_body_without_end_is_not_read_for_ever(tmp_path: Path) -> None:
    with visited(tmp_path, replace(CALM, discarded_bytes=1 << 20)) as (_, visit):
        visitor = visit()
        visitor.say(visitor.head(length=1 << 40))
        with pytest.raises(ConnectionError):
            visitor.say(bytes(64 << 20))


def test_headers_without_end_are_refused(calm: tuple[RunningEngine, Visit]) -> None:
    _, visit = calm
    visitor = visit()
    visitor.say("GET /health HTTP/1.1\r\n" + "X-Padding: xxxxxxxxxxxxxxxx\r\n" * 1000)
    assert visitor.answer()[0] == 400


def test_a_client_that_never_reads_is_left(tmp_path: Path) -> None:
    with visited(tmp_path, replace(CALM, unread_s=SOON_S)) as (engine, visit):
        visitor = visit()
        body = json.dumps({"n_predict": 60_000, "stream": True})
        visitor.say(visitor.head(length=len(body)) + body)
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)


def test_200_clients_at_once_are_all_answered(tmp_path: Path) -> None:
    with visited(tmp_path, TCP_LIMITS) as (_, visit):
        visitors = [visit() for _ in range(200)]
        for visitor in visitors:
            visitor.say(visitor.head(length=16) + '{"n_predict": 2')
        for visitor in visitors:
            visitor.say("}")
        statuses = [visitor.status() for visitor in visitors]
    assert set(statuses) <= {200, 503}, "served, or told that too many wait"
    assert statuses.count(200) >= EngineConfig().max_queue


def test_typing_goes_on_while_strangers_dawdle(home: Path) -> None:
    with visited(home / "loris", TCP_LIMITS) as (engine, visit):
        for _ in range(50):
            visitor = visit()
            visitor.say(visitor.head(length=1000) + "{")
        for _ in range(200):
            visit().say("GET /")
        answer = engine.http.post("/infill", json={"input_prefix": "ab", "n_predict": 3})
        assert answer.json()["content"] == "def"
