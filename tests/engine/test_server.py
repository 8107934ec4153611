from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import engine.api.infill as infill
from engine.config import EngineConfig
from engine.protocol import Health, UmbrellaRequest
from engine.schema import read
from tests.engine.fake_parts import FakeBranch
from tests.engine.fakes import FakeBackend, RunningEngine, error_of, events_of, running_engine

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


@pytest.fixture(scope="module")
def branching(home: Path) -> Iterator[RunningEngine]:
    """An engine whose target has verified another path or two."""
    branches = [FakeBranch.of(1, "X;", -1.0), FakeBranch.of(2, "Y", -2.0)]
    with running_engine(home / "branching", FakeBackend(branches=branches)) as running:
        yield running


ALTERNATIVES = {"stop": ";", "umbrella": {"n": 3}}


def test_alternatives_of_an_infill_are_in_our_part_of_the_answer(branching: RunningEngine) -> None:
    body = {**ALTERNATIVES, "input_prefix": "ab", "n_predict": 3}
    answer = branching.http.post("/infill", json=body).json()
    ours = answer["umbrella"]
    assert (answer["content"], answer["stop_type"], ours["stop"]) == ("def", "limit", "length")
    assert ours["alternatives"] == [
        {"index": 1, "content": "dX", "stop": "string", "logprobs": [-0.5] * 3, "text_offsets": [0, 1, 2]},
        {
            "index": 2,
            "content": "deY",
            "stop": "length",
            "logprobs": [-0.5, -0.5, -2.0],
            "text_offsets": [0, 1, 2],
        },
    ]
    assert answer["tokens_predicted"] == ours["tokens"]["generated"] == 3 + 2 + 1
    assert ours["tokens"]["target_passes"] == 3


def test_alternatives_of_an_infill_are_streamed_one_after_the_other(branching: RunningEngine) -> None:
    body = {**ALTERNATIVES, "input_prefix": "ab", "n_predict": 4, "stream": True}
    events = events_of(branching.http.post("/infill", json=body))
    told = [(event["index"], event["content"], event["stop"]) for event in events]
    main = [(0, "d", False), (0, "e", False), (0, "f", False), (0, "g", True)]
    assert told == [*main, (1, "dX", True), (2, "deY", False), (2, "g", True)]
    assert [event["umbrella"]["index"] for event in events] == [index for index, _, _ in told]
    assert [event["umbrella"]["stop"] for event in events if event["stop"]] == ["length", "string", "length"]


def test_a_prompt_that_is_only_to_be_cached_has_no_alternatives(branching: RunningEngine) -> None:
    body = {**ALTERNATIVES, "input_prefix": "ab", "n_predict": 0}
    assert branching.http.post("/infill", json=body).json()["umbrella"]["alternatives"] == []


@pytest.mark.parametrize(
    ("bias", "known"),
    [
        ({"5": 1.5, "7": -100}, ((5, 1.5), (7, -100.0))),
        ([[5, 1.5], [7, False]], ((5, 1.5), (7, -math.inf))),
        ({}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_a_logit_bias_is_understood_in_either_dialects_words(bias: object, known: object) -> None:
    config = EngineConfig(model="fake")
    assert infill.to_request(infill.InfillBody(logit_bias=bias), config).logit_bias == known


def test_our_part_of_a_request_reaches_the_generation() -> None:
    ours = UmbrellaRequest(session="s", workspace="w", priority="chat", tier="draft", n=5, speculative=False)
    config = EngineConfig(model="fake")
    request = infill.to_request(infill.InfillBody(umbrella=ours), config)
    assert (request.session, request.workspace, request.priority) == ("s", "w", "chat")
    assert request.tier == "draft"
    assert (request.alternatives, request.speculative) == (5, False)


def test_null_leaves_a_field_to_the_engine(engine: RunningEngine) -> None:
    nulls = {"stream": None, "umbrella": None, "top_p": None, "stop": None}
    infill = {**nulls, "input_prefix": "ab", "input_extra": None, "min_p": None, "n_predict": 1}
    assert engine.http.post("/infill", json=infill).json()["content"] == "d"


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


def test_a_top_p_of_0_is_served(engine: RunningEngine) -> None:
    assert engine.http.post("/infill", json={"top_p": 0, "n_predict": 1}).status_code == 200


def test_health_models_and_metrics_answer(engine: RunningEngine) -> None:
    health = read(Health, engine.http.get("/health").json())
    assert (health.state, health.progress, health.message) == ("ready", 1.0, "")
    assert health.config_hash == EngineConfig(model="fake").digest()
    assert (health.model, health.draft_model, health.languages) == ("fake", "bundled:draft", ())
    assert [model["id"] for model in engine.http.get("/v1/models").json()["data"]] == ["fake"]
    engine.http.post("/infill", json={"n_predict": 1})
    assert engine.metric('umbrella_requests_total{endpoint="/infill",outcome="ok"}') >= 1
    assert engine.metric("umbrella_queue_depth") == 0


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
            {"Authorization": engine.tcp.token},
        ):
            response = http.get("/health", headers=headers)
            assert response.status_code == 401
            assert "engine.token" in error_of(response)["message"]
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {engine.tcp.token}"}
            assert http.get("/health", headers=headers).status_code == 200
        answer = http.post("/infill", json={"n_predict": 1}, headers=engine.tcp.headers)
        assert answer.json()["tokens_predicted"] == 1


def test_tcp_refuses_a_name_that_is_not_loopback(engine: RunningEngine) -> None:
    assert engine.tcp is not None
    with httpx.Client(base_url=engine.tcp.base_url, trust_env=False) as http:
        for host in ("evil.example", "127.0.0.1.evil.example", "[::1", ""):
            assert http.get("/health", headers={**engine.tcp.headers, "Host": host}).status_code in (400, 403)
        for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
            assert http.get("/health", headers={**engine.tcp.headers, "Host": host}).status_code == 200
