"""One of our own engines as the server of another: two hops, and the same texts."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.config_tables import UpstreamName
from engine.generation import EngineBackend
from tests.engine.fakes import RunningEngine, events_of, eventually, running_engine

INFILL = {
    "input_prefix": "def add(first, second):\n    ",
    "input_suffix": "\n",
    "n_predict": 16,
    "stream": True,
}
CHAT = {"messages": [{"role": "user", "content": "<|eot_id|> hi"}], "max_tokens": 12, "temperature": 0}
CONFIG = EngineConfig(chat_template="meta-llama3")


@pytest.fixture(scope="module")
def engines(home: Path) -> Generator[tuple[RunningEngine, RunningEngine]]:
    """One that has the models, and one that asks it."""
    with (
        running_engine(
            home / "theirs",
            config=CONFIG,
            load=lambda progress: EngineBackend.load(CONFIG, progress),
            with_tcp=True,
        ) as theirs,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert theirs.tcp is not None
        patch.setenv("THEIR_TOKEN", theirs.tcp.token)
        eventually(lambda: theirs.http.get("/health").json()["state"] == "ready")
        upstreams = (UpstreamName(f"http://127.0.0.1:{theirs.tcp.port}", token_env="THEIR_TOKEN"),)
        config = replace(CONFIG, engine="remote", upstreams=upstreams, fallback=False)
        with running_engine(home / "ours", config=config) as ours:
            eventually(lambda: ours.http.get("/health").json()["state"] == "ready")
            yield ours, theirs


def test_an_infill_is_what_the_other_engine_writes(engines: tuple[RunningEngine, RunningEngine]) -> None:
    through, itself = (events_of(engine.http.post("/infill", json=INFILL)) for engine in engines)

    text = "".join(event["content"] for event in itself)
    assert "".join(event["content"] for event in through) == text
    assert text.startswith('"""Add')
    logprobs = [
        [x for event in events for x in event["umbrella"]["logprobs"]] for events in (through, itself)
    ]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
    assert through[-1]["umbrella"]["tokens"]["prompt"] == itself[-1]["umbrella"]["tokens"]["prompt"]


def test_a_chat_is_what_the_other_engine_answers(engines: tuple[RunningEngine, RunningEngine]) -> None:
    through, itself = (engine.http.post("/v1/chat/completions", json=CHAT).json() for engine in engines)

    assert through["choices"] == itself["choices"]
    assert through["usage"]["prompt_tokens"] == itself["usage"]["prompt_tokens"]


def test_text_and_tokens_are_the_targets(engines: tuple[RunningEngine, RunningEngine]) -> None:
    ours, theirs = engines
    asked = {"content": "def <|eot_id|>", "add_special": True, "parse_special": True}
    assert ours.http.post("/tokenize", json=asked).json() == theirs.http.post("/tokenize", json=asked).json()
