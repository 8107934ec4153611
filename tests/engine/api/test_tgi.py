"""TGI's API, through Hugging Face's own client and as it is written on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from engine.api.tgi import GenerateBody, GenerateParameters, TgiDialect, to_requests
from engine.config import EngineConfig
from engine.jobs import Chunk, Ending
from engine.protocol import StopReason, Timings, TokenCounts
from tests.engine.fake_parts import END
from tests.engine.fakes import FakeBackend, RunningEngine, events_of, running_engine

CONFIG = EngineConfig(model="fake")


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    with running_engine(home / "tgi", FakeBackend("abcdefgh" + chr(END)), with_tcp=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(engine: RunningEngine) -> Iterator[InferenceClient]:
    assert engine.tcp is not None
    with pytest.MonkeyPatch.context() as patch:
        # Offline, the client asks nobody; this one asks loopback alone.
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        with InferenceClient(base_url=engine.tcp.base_url, api_key=engine.tcp.token) as client:
            yield client


def test_hugging_faces_client_gets_a_text(client: InferenceClient) -> None:
    assert client.text_generation("ab", max_new_tokens=3) == "def"
    assert client.text_generation("ab", max_new_tokens=3, return_full_text=True) == "abdef"
    answer = client.text_generation("ab", max_new_tokens=9, details=True, seed=5, do_sample=True, best_of=2)
    assert answer.generated_text == "defgh"
    assert answer.details is not None
    assert (answer.details.finish_reason, answer.details.generated_tokens) == ("eos_token", 6)
    assert "".join(token.text for token in answer.details.tokens) == "defgh"
    assert [token.special for token in answer.details.tokens] == [False] * 5 + [True]
    assert answer.details.seed == 5


def test_hugging_faces_client_streams(client: InferenceClient) -> None:
    assert list(client.text_generation("ab", max_new_tokens=3, stream=True)) == ["d", "e", "f"]
    *events, last = client.text_generation("ab", stop=["g"], stream=True, details=True)
    assert last.details is not None
    assert (last.generated_text, last.details.finish_reason) == ("def", "stop_sequence")
    assert "".join(event.token.text for event in (*events, last)) == "def"
    assert [event.generated_text for event in events] == [None] * len(events)


def test_hugging_faces_client_raises_its_own_error(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="truncate"):
        client.text_generation("ab", truncate=5)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({}, "inputs"),
        ({"inputs": 5}, "inputs"),
        *(
            ({"inputs": "a", "parameters": {name: value}}, f"parameters.{name}")
            for name, value in (
                *(("max_new_tokens", 0), ("temperature", -1), ("top_k", "x"), ("top_p", 2), ("seed", -1)),
                *(("stop", [""]), ("best_of", 0), ("watermark", True), ("grammar", {"type": "json"})),
                *(("frequency_penalty", 3), ("repetition_penalty", 0), ("typical_p", 0.5)),
            )
        ),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_named_in_tgis_words(engine: RunningEngine, body: dict, name: str) -> None:
    for path in ("/generate", "/generate_stream", "/"):
        response = engine.http.post(path, json=body)
        assert (response.status_code, response.json()["error_type"]) == (422, "validation")
        assert name in response.json()["error"]


def test_a_stream_has_one_answer_and_no_better_one(engine: RunningEngine) -> None:
    response = engine.http.post("/generate_stream", json={"inputs": "a", "parameters": {"best_of": 2}})
    assert (response.status_code, response.json()["error_type"]) == (422, "validation")
    assert "best_of" in response.json()["error"]


def test_an_unknown_adapter_and_a_failure_are_told(engine: RunningEngine) -> None:
    unknown = engine.http.post("/generate", json={"inputs": "a", "parameters": {"adapter_id": "x"}})
    assert (unknown.status_code, unknown.json()["error_type"]) == (422, "validation")
    failed = engine.http.post("/generate", json={"inputs": "explode"})
    assert (failed.status_code, failed.json()["error_type"]) == (424, "generation")


def test_the_engine_describes_itself(engine: RunningEngine) -> None:
    told = engine.http.get("/info").json()
    assert (told["model_id"], told["max_total_tokens"]) == ("fake", 1 << 16)


def test_sampling_without_a_temperature_is_tgis() -> None:
    def temperature(**parameters: object) -> float:
        body = GenerateBody("a", GenerateParameters(**parameters))  # pyright: ignore[reportArgumentType]
        [request] = to_requests(body, replace(CONFIG, temperature=0.3), "", stream=True)
        return request.temperature

    assert (temperature(), temperature(do_sample=True), temperature(temperature=0.7)) == (0.3, 1.0, 0.7)


@pytest.mark.parametrize(
    ("texts", "offsets"),
    [
        (["abc", "de"], [(0, 1), (3,)]),
        (["", "abcde"], [(0, 1), (3,)]),
        (["a", "bcde"], [(0, 1), (3,)]),
        (["abc", "de"], [(), ()]),
    ],
)
def test_token_texts_add_up_whatever_is_held_back(texts: list[str], offsets: list[tuple[int, ...]]) -> None:
    dialect = TgiDialect(
        GenerateBody("p"), to_requests(GenerateBody("p"), CONFIG, "", stream=True), "/", True
    )
    ending = Ending(StopReason.LENGTH)
    events: list = []
    for text, at, end in zip(texts, offsets, (None, ending), strict=True):
        logprobs = (-1.0,) * len(at)
        chunk = Chunk(text, logprobs, TokenCounts(), Timings(), end, offsets=at, tokens=(7,) * len(at))
        events += dialect.events(0, chunk)
    assert "".join(event["token"]["text"] for event in events) == "abcde" == events[-1]["generated_text"]
    assert [event["index"] for event in events] == [*range(1, len(events) + 1)]


def test_the_one_path_for_both_streams_where_asked(engine: RunningEngine) -> None:
    body = {"inputs": "ab", "parameters": {"max_new_tokens": 2}}
    [whole] = engine.http.post("/", json=body).json()
    streamed = events_of(engine.http.post("/", json={**body, "stream": True}))
    assert streamed[-1]["generated_text"] == whole["generated_text"] == "de"
