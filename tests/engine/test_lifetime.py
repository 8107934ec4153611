"""Cancelling over a real socket, what is told while loading or after it failed, and how an engine ends."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import httpx
import pytest

from engine.cli import FAILED, main
from engine.config import EngineConfig
from engine.errors import CheckpointError, DeviceError, RequestError
from engine.progress import Progress
from engine.request import GenerationRequest
from tests.engine.fake_parts import FakePrompt
from tests.engine.fakes import DEADLINE_S, FakeBackend, Gate, error_of, events_of, eventually, running_engine


def test_a_full_queue_is_a_503(tmp_path: Path) -> None:
    gate = Gate()
    config = EngineConfig(model="fake", max_queue=1)
    with running_engine(tmp_path, FakeBackend(in_layer=gate), config) as engine:
        running = engine.connect("/infill", {})
        gate.wait()
        waiting = engine.connect("/infill", {})
        eventually(lambda: engine.metric("umbrella_queue_depth") == 1)
        response = engine.http.post("/infill", json={})
        assert response.status_code == 503
        assert "max_queue" in error_of(response)["message"]
        for connection in (waiting, running):
            connection.close()
        gate.release()


@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_stops_the_engine_before_its_next_layer(
    tmp_path: Path, *, stream: bool
) -> None:
    gate = Gate(layer=2)
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        connection = engine.connect("/infill", {"stream": stream, "n_predict": 1000})
        gate.wait()
        if stream:
            gate.step()
            assert b"200 OK" in connection.recv(1000)
            gate.wait()
        connection.close()
        cancelled = 'umbrella_requests_total{endpoint="/infill",outcome="cancelled"}'
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        started = engine.metric("umbrella_layers_started_total")
        gate.release()
        eventually(lambda: engine.metric(cancelled) == 1)
        assert engine.metric("umbrella_layers_started_total") == started
        assert engine.metric("umbrella_layers_started_after_cancel_total") == 0


def test_a_failed_load_is_told_by_health_and_by_every_request_and_the_engine_can_be_ended(
    tmp_path: Path,
) -> None:
    def load(_progress: Progress) -> FakeBackend:
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

    def load(progress: Progress) -> FakeBackend:
        progress(0.25, "Loading layer 1 of 4")
        assert may_load.wait(DEADLINE_S)
        return FakeBackend()

    with running_engine(tmp_path, load=load) as engine:
        eventually(lambda: engine.http.get("/health").json()["progress"] == 0.25)
        assert engine.http.get("/health").json()["state"] == "loading"
        assert engine.http.get("/health").json()["message"] == "Loading layer 1 of 4"
        connection = engine.connect("/infill", {"n_predict": 1})
        eventually(lambda: engine.metric("umbrella_queue_depth") == 1)
        may_load.set()
        assert b"200 OK" in connection.recv(100)
        connection.close()


def test_memory_is_given_back_and_asked_for_again_and_the_engine_stays(tmp_path: Path) -> None:
    with running_engine(tmp_path, with_tcp=True) as engine:
        assert engine.tcp is not None
        assert httpx.post(f"{engine.tcp.base_url}/unload").status_code == 401
        response = engine.http.post("/unload")
        assert (response.status_code, response.json()) == (200, {"state": "unloaded"})
        assert engine.http.get("/health").json()["state"] == "unloaded"
        assert engine.http.post("/infill", json={"n_predict": 1}).status_code == 200
        assert engine.http.get("/health").json()["state"] == "ready"


def test_who_frees_memory_that_is_in_use_is_told_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.api.app.UNLOAD_WAIT_S", 0.05)
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(tmp_path))
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        connection = engine.connect("/infill", {"n_predict": 2})
        gate.wait()
        assert main(["unload"]) == FAILED
        assert "as soon as it has finished" in capsys.readouterr().err
        gate.release()
        connection.close()
        eventually(lambda: engine.http.get("/health").json()["state"] == "unloaded")


def test_an_engine_whose_device_is_lost_says_so_and_ends_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(_layer: int) -> None:
        raise DeviceError("The GPU stopped working (unspecified launch failure)", lost=True)

    with running_engine(tmp_path, FakeBackend(in_layer=lose)) as engine:
        response = engine.http.post("/infill", json={})
        assert response.status_code == 503
        assert "The GPU stopped working" in error_of(response)["message"]
        assert engine.http.get("/health").json()["state"] == "failed"
        engine.thread.join(DEADLINE_S)
        assert not engine.thread.is_alive()
    assert "The GPU stopped working" in caplog.text


def test_an_engine_without_requests_ends_and_leaves_no_socket(tmp_path: Path) -> None:
    with running_engine(tmp_path, config=EngineConfig(model="fake", idle_s=1.0)) as engine:
        assert engine.http.post("/infill", json={"n_predict": 1}).status_code == 200
        engine.thread.join(DEADLINE_S)
        assert not engine.thread.is_alive()
        assert not engine.place.socket.exists()


def test_a_drained_engine_answers_what_it_accepted_then_ends(tmp_path: Path) -> None:
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        connection = engine.connect("/infill", {"n_predict": 2})
        gate.wait()
        assert engine.http.post("/drain").status_code == 202
        assert engine.http.get("/health").json()["state"] == "draining"
        assert engine.http.post("/infill", json={}).status_code == 503
        gate.release()
        assert b'"stop":true' in b"".join(iter(lambda: connection.recv(4096), b""))
        connection.close()


def test_a_failure_in_mid_stream_is_an_event_and_the_next_request_is_served(tmp_path: Path) -> None:
    def fail(_layer: int) -> None:
        if backend.target_slots[0].tokens[-1] == ord("d"):
            raise ZeroDivisionError

    backend = FakeBackend(in_layer=fail)
    with running_engine(tmp_path, backend) as engine:
        response = engine.http.post("/infill", json={"stream": True, "n_predict": 5})
        assert [event.get("content") for event in events_of(response)] == ["b", "c", "d", None]
        *_, before, failure = events_of(response)
        assert "ZeroDivisionError" in failure["error"]["message"]
        assert failure["umbrella"] == {**before["umbrella"], "logprobs": [], "text_offsets": []}
        assert failure["umbrella"]["tokens"]["generated"] == 3
        response = engine.http.post("/infill", json={"n_predict": 5})
        assert "ZeroDivisionError" in error_of(response)["message"]
        assert response.status_code == 503
        assert response.json()["umbrella"]["tokens"]["generated"] == 3
        assert engine.http.post("/infill", json={"n_predict": 1}).status_code == 200


class NoRoom(FakeBackend):
    """Finds every answer too long, as `engine.prompt` does."""

    def encode(self, request: GenerationRequest) -> FakePrompt:
        raise RequestError("too many tokens to generate; ask for fewer", "max_tokens")


def test_a_length_that_does_not_fit_is_named_as_the_client_named_it(tmp_path: Path) -> None:
    with running_engine(tmp_path, NoRoom()) as engine:
        for path, body in (("/infill", {"n_predict": 9}), ("/v1/completions", {"prompt": "", "suffix": "b"})):
            error = error_of(engine.http.post(path, json=body))
            assert error["param"] == ("n_predict" if path == "/infill" else "max_tokens")


def test_a_killed_engines_token_and_port_do_not_outlive_it(tmp_path: Path) -> None:
    for name in ("engine.token", "engine.port"):
        (tmp_path / name).write_text("1")
    with running_engine(tmp_path):
        assert not (tmp_path / "engine.token").exists()
        assert not (tmp_path / "engine.port").exists()


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
