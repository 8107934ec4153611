from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.protocol import Health
from engine.schema import read
from engine.server import listen_tcp
from tests.engine.fakes import RunningEngine, error_of, events_of, running_engine

SNIPPET = {"kind": "snippet", "text": "xxxx"}


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    """One engine for all tests that do not change it."""
    with running_engine(home / "server", with_tcp=True) as running:
        yield running


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
    streamed = events_of(response)
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
    first, last, usage = events_of(response)
    assert (first["choices"][0]["text"], first["choices"][0]["finish_reason"]) == ("d", None)
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("e", "length")
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert all("umbrella" in event for event in (first, last, usage))


def test_a_suffix_makes_a_completion_a_code_prompt(engine: RunningEngine) -> None:
    body = {"prompt": "ab", "suffix": "yz", "max_tokens": 1}
    answer = engine.http.post("/v1/completions", json=body).json()
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [2, 2]


def test_segments_make_a_completion_a_code_prompt_and_keep_their_indices(engine: RunningEngine) -> None:
    body = {"prompt": "ab", "max_tokens": 1, "umbrella": {"segments": [SNIPPET]}}
    answer = engine.http.post("/v1/completions", json=body).json()
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [4, 2]
    body = {**body, "umbrella": {"segments": [{"kind": "suffix", "text": "xyz"}, SNIPPET]}}
    answer = engine.http.post("/v1/completions", json=body).json()
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [3, 4, 2]


def test_null_leaves_a_field_to_the_engine(engine: RunningEngine) -> None:
    nulls = {"stream": None, "umbrella": None, "top_p": None, "stop": None}
    infill = {**nulls, "input_prefix": "ab", "input_extra": None, "min_p": None, "n_predict": 1}
    assert engine.http.post("/infill", json=infill).json()["content"] == "d"
    completion = {**nulls, "prompt": "ab", "suffix": None, "logprobs": None, "max_tokens": 1}
    assert engine.http.post("/v1/completions", json=completion).json()["choices"][0]["text"] == "d"


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_to_predict_caches_the_prompt_and_says_nothing(
    engine: RunningEngine, *, stream: bool
) -> None:
    body = {"input_prefix": f"warm {stream}", "umbrella": {"session": f"warm {stream}"}}
    response = engine.http.post("/infill", json={**body, "n_predict": 0, "stop": "gh", "stream": stream})
    assert response.status_code == 200
    [answer] = events_of(response) if stream else [response.json()]
    assert (answer["content"], answer["stop"], answer["stop_type"]) == ("", True, "limit")
    assert (answer["tokens_predicted"], answer["umbrella"]["logprobs"]) == (0, [])
    again = engine.http.post("/infill", json={**body, "n_predict": 1}).json()
    assert again["tokens_cached"] == again["tokens_evaluated"] == answer["tokens_evaluated"]


@pytest.mark.parametrize(("path", "body"), [("/infill", {}), ("/v1/completions", {"prompt": "a"})])
def test_a_top_p_of_0_is_served(engine: RunningEngine, path: str, body: dict) -> None:
    assert engine.http.post(path, json={**body, "top_p": 0}).status_code == 200


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
        ("/infill", {"n_predict": -2}, "n_predict"),
        ("/infill", {"n_predict": "3"}, "n_predict"),
        ("/infill", {"temperature": -1}, "temperature"),
        ("/infill", {"top_k": -2}, "top_k"),
        ("/infill", {"top_p": -0.1}, "top_p"),
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
        ("/v1/completions", {"prompt": "a", "logprobs": 0}, "logprobs"),
        ("/v1/completions", {"prompt": None}, "prompt"),
        ("/v1/completions", {"prompt": [1], "umbrella": {"segments": [SNIPPET]}}, "umbrella.segments"),
        (
            "/v1/completions",
            {"prompt": "a", "umbrella": {"segments": [{**SNIPPET, "kind": "prefix"}]}},
            "prompt",
        ),
        (
            "/v1/completions",
            {"prompt": "a", "suffix": "b", "umbrella": {"segments": [{**SNIPPET, "kind": "suffix"}]}},
            "suffix",
        ),
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
