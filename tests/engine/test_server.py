from __future__ import annotations

import json
import logging
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError
from engine.protocol import Health
from engine.schema import read
from engine.server import listen_tcp
from tests.engine.fakes import DEADLINE_S, FakeBackend, Gate, RunningEngine, eventually, running_engine


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    """One engine for all tests that do not change it."""
    with running_engine(home / "server", with_tcp=True) as running:
        yield running


def events(response: httpx.Response) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def error_of(response: httpx.Response) -> dict:
    error = response.json()["error"]
    assert error["code"] == response.status_code
    assert error["message"]
    return error


def raw_request(engine: RunningEngine, path: str, body: dict) -> socket.socket:
    """Send a request and keep the connection, to close it when it suits the test."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(engine.place.socket))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


# What goes out.


def test_infill_answers_in_llama_servers_words_with_ours_beside(engine: RunningEngine) -> None:
    body = {"input_prefix": "ab", "input_suffix": "cd", "n_predict": 3, "samplers": ["ignored"]}
    answer = engine.http.post("/infill", json=body).json()
    assert answer["content"] == "fgh"
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "limit", "")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"], answer["truncated"]) == (3, 5, False)
    assert answer["model"] == "fake"
    assert answer["timings"]["predicted_n"] == 3
    ours = answer["umbrella"]
    assert ours["tokens"]["generated"] == 3
    assert ours["timings"]["total_ms"] > 0
    assert ours["logprobs"] == [-0.5] * 3
    assert ours["stop"] == "length"
    assert [fate["fate"] for fate in ours["segments"]] == ["kept", "kept"]


def test_streamed_events_add_up_to_the_whole_and_each_carries_our_part(engine: RunningEngine) -> None:
    body = {"input_prefix": "ab", "n_predict": 4}
    whole = engine.http.post("/infill", json=body).json()
    response = engine.http.post("/infill", json={**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    streamed = events(response)
    assert "".join(event["content"] for event in streamed) == whole["content"]
    assert [event["stop"] for event in streamed] == [False, False, False, True]
    assert [event["umbrella"]["tokens"]["generated"] for event in streamed] == [1, 2, 3, 4]
    assert all("total_ms" in event["umbrella"]["timings"] for event in streamed)
    assert streamed[-1]["umbrella"]["stop"] == whole["umbrella"]["stop"]


def test_every_source_of_text_becomes_a_segment_in_a_known_order(engine: RunningEngine) -> None:
    body = {
        "input_prefix": "pp",
        "prompt": "q",
        "input_suffix": "s",
        "input_extra": [{"filename": "a.py", "text": "xxxx"}],
        "umbrella": {"segments": [{"kind": "definition", "text": "ddddd"}]},
        "n_predict": 1,
    }
    fates = engine.http.post("/infill", json=body).json()["umbrella"]["segments"]
    assert [fate["tokens"] for fate in fates] == [5, 3, 1, 4]


def test_stops_of_both_kinds_end_a_generation(engine: RunningEngine) -> None:
    body = {"input_prefix": "a", "stop": "gh", "umbrella": {"stop": {"strings": ["ij"]}}}
    answer = engine.http.post("/infill", json=body).json()
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == ("cdef", "word", "gh")


def test_completions_answer_in_openais_words(engine: RunningEngine) -> None:
    body = {"model": "whatever", "prompt": "ab", "max_tokens": 3, "stop": ["zzz"]}
    answer = engine.http.post("/v1/completions", json=body).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "def", "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] | {"prompt_tokens_details": 0} == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": 0,
    }
    assert answer["umbrella"]["tokens"]["generated"] == 3


@pytest.mark.parametrize("prompt", [[0, 97, 98], [[0, 97, 98]], ["ab"]])
def test_completions_take_token_ids_and_lists_of_one(engine: RunningEngine, prompt: object) -> None:
    body = {"prompt": prompt, "max_tokens": 3}
    assert engine.http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "def"


def test_streamed_completions_end_with_done_and_usage_where_asked(engine: RunningEngine) -> None:
    body = {"prompt": "ab", "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
    response = engine.http.post("/v1/completions", json=body)
    assert response.text.endswith("data: [DONE]\n\n")
    first, last, usage = events(response)
    assert (first["choices"][0]["text"], first["choices"][0]["finish_reason"]) == ("d", None)
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("e", "length")
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert all("umbrella" in event for event in (first, last, usage))


def test_a_suffix_makes_a_completion_a_code_prompt(engine: RunningEngine) -> None:
    body = {"prompt": "ab", "suffix": "yz", "max_tokens": 1}
    answer = engine.http.post("/v1/completions", json=body).json()
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [2, 2]


def test_health_models_and_metrics_answer(engine: RunningEngine) -> None:
    health = read(Health, engine.http.get("/health").json())
    assert (health.state, health.progress, health.message) == ("ready", 1.0, "")
    assert health.config_hash == EngineConfig(model="fake").digest()
    assert [model["id"] for model in engine.http.get("/v1/models").json()["data"]] == ["fake"]
    engine.http.post("/infill", json={"n_predict": 1})
    assert engine.metric('umbrella_requests_total{endpoint="/infill",outcome="ok"}') >= 1
    assert engine.metric("umbrella_queue_depth") == 0


# What is refused.


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/infill", {"n_predict": 0}, "n_predict"),
        ("/infill", {"n_predict": "3"}, "n_predict"),
        ("/infill", {"temperature": -1}, "temperature"),
        ("/infill", {"top_k": -2}, "top_k"),
        ("/infill", {"top_p": 0}, "top_p"),
        ("/infill", {"min_p": 2}, "min_p"),
        ("/infill", {"repeat_penalty": 0}, "repeat_penalty"),
        ("/infill", {"seed": 1 << 63}, "seed"),
        ("/infill", {"t_max_predict_ms": -1}, "t_max_predict_ms"),
        ("/infill", {"stop": [""]}, "stop"),
        ("/infill", {"input_prefix": 1}, "input_prefix"),
        ("/infill", {"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
        ("/infill", {"umbrella": {"n": 17}}, "umbrella.n"),
        ("/infill", {"umbrella": {"priority": "soon"}}, "umbrella.priority"),
        ("/infill", {"umbrella": {"stop": {"max_lines": 0}}}, "umbrella.stop.max_lines"),
        ("/infill", {"umbrella": {"segments": [{"kind": "x", "text": ""}]}}, "umbrella.segments[0].kind"),
        (
            "/infill",
            {"input_prefix": "a", "umbrella": {"segments": [{"kind": "prefix", "text": "b"}]}},
            "input_prefix",
        ),
        (
            "/infill",
            {"input_suffix": "a", "umbrella": {"segments": [{"kind": "suffix", "text": "b"}]}},
            "input_suffix",
        ),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": 5}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": [1, True]}, "prompt"),
        ("/v1/completions", {"prompt": [1, 999]}, "prompt"),
        ("/v1/completions", {"prompt": [1], "suffix": "x"}, "suffix"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "n": 2}, "n"),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "a", "logprobs": 5}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "presence_penalty": 0.5}, "presence_penalty"),
        ("/v1/completions", {"prompt": "a", "frequency_penalty": 1}, "frequency_penalty"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"1": 2}}, "logit_bias"),
        ("/v1/completions", {"prompt": "a", "stop": ["x", ""]}, "stop"),
    ],
)
def test_a_field_that_cannot_be_served_is_named(
    engine: RunningEngine, path: str, body: dict, field: str
) -> None:
    response = engine.http.post(path, json=body)
    assert response.status_code == 422
    error = error_of(response)
    assert error["param"] == field
    assert field in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b'{"seed": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_400(engine: RunningEngine, body: bytes) -> None:
    response = engine.http.post("/infill", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_body_beyond_the_limit_is_a_413(engine: RunningEngine) -> None:
    response = engine.http.post("/infill", json={"input_prefix": "x" * (17 << 20)})
    assert response.status_code == 413
    assert "16 MB" in error_of(response)["message"]


def test_what_does_not_exist_yet_or_at_all_is_said_in_json(engine: RunningEngine) -> None:
    assert engine.http.post("/workspace", json={}).status_code == 501
    assert engine.http.get("/nothing").json()["error"]["code"] == 404
    assert engine.http.get("/infill").json()["error"]["code"] == 405


def test_a_full_queue_is_a_503(tmp_path: Path) -> None:
    gate = Gate()
    config = EngineConfig(model="fake", max_queue=1)
    with running_engine(tmp_path, FakeBackend(in_layer=gate), config) as engine:
        running = raw_request(engine, "/infill", {})
        gate.wait()
        waiting = raw_request(engine, "/infill", {})
        eventually(lambda: engine.metric("umbrella_queue_depth") == 1)
        response = engine.http.post("/infill", json={})
        assert response.status_code == 503
        assert "max_queue" in error_of(response)["message"]
        for connection in (waiting, running):
            connection.close()
        gate.release()


# Who may ask.


def test_the_socket_is_its_users_alone(engine: RunningEngine) -> None:
    assert stat.S_IMODE(engine.place.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(engine.place.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((engine.place.path / "engine.token").stat().st_mode) == 0o600


def test_tcp_takes_the_token_and_nothing_else(engine: RunningEngine) -> None:
    assert engine.tcp is not None
    with httpx.Client(base_url=engine.tcp.base_url, trust_env=False) as http:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {engine.tcp.token}"},
        ):
            response = http.get("/health", headers=headers)
            assert response.status_code == 401
            assert "engine.token" in error_of(response)["message"]
        assert http.get("/health", headers=engine.tcp.headers).status_code == 200
        answer = http.post("/infill", json={"n_predict": 1}, headers=engine.tcp.headers)
        assert answer.json()["tokens_predicted"] == 1


def test_tcp_refuses_a_name_that_is_not_loopback(engine: RunningEngine) -> None:
    assert engine.tcp is not None
    with httpx.Client(base_url=engine.tcp.base_url, trust_env=False) as http:
        for host in ("evil.example", "127.0.0.1.evil.example", "[::1", ""):
            assert http.get("/health", headers={**engine.tcp.headers, "Host": host}).status_code in (400, 403)
        for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
            assert http.get("/health", headers={**engine.tcp.headers, "Host": host}).status_code == 200


def test_only_loopback_can_be_listened_on(engine: RunningEngine) -> None:
    for host in ("0.0.0.0", "::", "example.org", ""):
        with pytest.raises(ConfigError, match="loopback only"):
            listen_tcp(host, 0)
    assert engine.tcp is not None
    with pytest.raises(ConfigError, match=f"--port {engine.tcp.port} cannot be used"):
        listen_tcp("127.0.0.1", engine.tcp.port)


# Cancelling, and ends.


@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_stops_the_engine_before_its_next_layer(
    tmp_path: Path, *, stream: bool
) -> None:
    gate = Gate(layer=2)
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        connection = raw_request(engine, "/infill", {"stream": stream, "n_predict": 1000})
        gate.wait()
        if stream:
            gate.step()
            assert b"200 OK" in connection.recv(1000)
            gate.wait()
        connection.close()
        cancelled = 'umbrella_requests_total{endpoint="/infill",outcome="cancelled"}'
        # The flag is up once a later request, on the same loop, has been answered and told of it.
        eventually(lambda: _closed(engine))
        started = engine.metric("umbrella_layers_started_total")
        gate.release()
        eventually(lambda: engine.metric(cancelled) == 1)
        assert engine.metric("umbrella_layers_started_total") == started
        assert engine.metric("umbrella_layers_started_after_cancel_total") == 0


def _closed(engine: RunningEngine) -> bool:
    return bool(engine.metric("umbrella_cancels_total"))


def test_a_failed_load_is_told_by_health_and_by_every_request_and_the_engine_can_be_ended(
    tmp_path: Path,
) -> None:
    def load(_progress: Callable[[float], None]) -> FakeBackend:
        raise CheckpointError("model-00002.safetensors is cut off; fetch it again")

    with running_engine(tmp_path, load=load) as engine:
        eventually(lambda: engine.http.get("/health").json()["state"] == "failed")
        assert "model-00002.safetensors" in engine.http.get("/health").json()["message"]
        for path, body in (("/infill", {}), ("/v1/completions", {"prompt": "a", "stream": True})):
            response = engine.http.post(path, json=body)
            assert response.status_code == 503
            assert "fetch it again" in error_of(response)["message"]
            assert "umbrella-engine stop" in error_of(response)["message"]
        assert engine.http.post("/drain").status_code == 202
        engine.thread.join(DEADLINE_S)
        assert not engine.thread.is_alive()


def test_health_tells_how_far_loading_is_and_requests_wait_for_it(tmp_path: Path) -> None:
    may_load = threading.Event()

    def load(progress: Callable[[float], None]) -> FakeBackend:
        progress(0.25)
        assert may_load.wait(DEADLINE_S)
        return FakeBackend()

    with running_engine(tmp_path, load=load) as engine:
        eventually(lambda: engine.http.get("/health").json()["progress"] == 0.25)
        assert engine.http.get("/health").json()["state"] == "loading"
        connection = raw_request(engine, "/infill", {"n_predict": 1})
        eventually(lambda: engine.metric("umbrella_queue_depth") == 1)
        may_load.set()
        assert b"200 OK" in connection.recv(100)
        connection.close()


def test_an_engine_without_requests_ends_and_leaves_no_socket(tmp_path: Path) -> None:
    with running_engine(tmp_path, config=EngineConfig(model="fake", idle_s=0.3)) as engine:
        assert engine.http.post("/infill", json={"n_predict": 1}).status_code == 200
        engine.thread.join(DEADLINE_S)
        assert not engine.thread.is_alive()
        assert not engine.place.socket.exists()


def test_a_drained_engine_answers_what_it_accepted_then_ends(tmp_path: Path) -> None:
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        connection = raw_request(engine, "/infill", {"n_predict": 2})
        gate.wait()
        assert engine.http.post("/drain").status_code == 202
        assert engine.http.get("/health").json()["state"] == "draining"
        assert engine.http.post("/infill", json={}).status_code == 503
        gate.release()
        assert b'"stop":true' in b"".join(iter(lambda: connection.recv(4096), b""))
        connection.close()


def test_a_failure_in_mid_stream_is_an_event_and_the_next_request_is_served(tmp_path: Path) -> None:
    def fail(_layer: int) -> None:
        if backend.slots[0].tokens[-1] == ord("d"):
            raise ZeroDivisionError

    backend = FakeBackend(in_layer=fail)
    with running_engine(tmp_path, backend) as engine:
        response = engine.http.post("/infill", json={"stream": True, "n_predict": 5})
        assert [event.get("content") for event in events(response)] == ["b", "c", "d", None]
        assert "ZeroDivisionError" in events(response)[-1]["error"]["message"]
        assert engine.http.post("/infill", json={"n_predict": 1}).status_code == 200


def test_no_text_of_the_users_is_ever_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter2"
    with running_engine(tmp_path, FakeBackend(answer=secret)) as engine:
        everywhere = {
            "input_prefix": secret,
            "prompt": secret,
            "umbrella": {"path": secret, "session": secret},
            "n_predict": 14,
        }
        assert secret in engine.http.post("/infill", json=everywhere).json()["content"]
        engine.http.post("/infill", json={**everywhere, "n_predict": secret})
        engine.http.post("/infill", content=secret)
        engine.http.post("/v1/completions", json={"prompt": "explode", "stop": [secret]})
        engine.http.post(f"/{secret}", content=secret)
    ours = [
        record.getMessage() for record in caplog.records if not record.name.startswith(("http", "asyncio"))
    ]
    assert any("/infill ok" in line for line in ours)
    assert not any(secret in line or "explode" in line for line in ours)
