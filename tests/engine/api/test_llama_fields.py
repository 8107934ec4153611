"""Whatever is written into the fields of an endpoint's body: an answer, or a refusal that names one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api.adapters import LoadAdapterBody, UnloadAdapterBody
from engine.api.chat import ChatBody
from engine.api.completions import CompletionBody
from engine.api.infill import InfillBody
from engine.api.llama_completion import PromptBody
from engine.api.llama_routes import DetokenizeBody, TokenizeBody
from engine.api.tgi import GenerateBody, GenerateParameters
from tests.engine.fakes import FakeBackend, RunningEngine, error_of, running_engine

BODIES = {
    "/infill": InfillBody,
    "/completion": PromptBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/generate": GenerateBody,
    "/v1/load_lora_adapter": LoadAdapterBody,
    "/v1/unload_lora_adapter": UnloadAdapterBody,
}
NUMBERS = st.integers(-3, 3) | st.sampled_from([97, 255, 256, 1 << 31, 1 << 63, -(1 << 63), 10**30])
"""None that a text could be long with."""
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats(-2, 2)
    | st.sampled_from([1e300, -1e300])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "input_extra": st.lists(st.fixed_dictionaries({"text": JSON}, optional={"filename": JSON}), max_size=2),
    "logit_bias": st.lists(st.tuples(NUMBERS, st.booleans() | st.floats(-2, 2)), max_size=2),
    "prompt": st.text(max_size=9) | st.lists(NUMBERS | st.text(max_size=3) | st.lists(NUMBERS, max_size=3)),
    "content": st.text(max_size=9),
    "model": st.sampled_from(["", "fake", "another"]),
    "messages": st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]) | JSON, "content": st.text() | JSON},
            optional={"tool_calls": JSON, "name": JSON},
        ),
        max_size=3,
    ),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": JSON}),
    "response_format": st.fixed_dictionaries({}, optional={"type": st.just("text") | JSON}),
    "modalities": st.lists(st.just("text") | JSON, max_size=2),
    "parameters": st.dictionaries(
        st.sampled_from([field.name for field in fields(GenerateParameters)]), NUMBERS | JSON, max_size=3
    ),
    "tokens": st.lists(NUMBERS, max_size=4),
    "lora_name": st.text(max_size=2),
    "lora_path": st.sampled_from(["/a", "/broken", "a", "~/a", "~nobody/a", "/\0"]),
    "response_fields": st.lists(st.sampled_from(["", "/", "content", "timings/prompt_n"]), max_size=3),
    "umbrella": st.dictionaries(
        st.sampled_from(["n", "segments", "stop", "priority", "tier", "session", "version"]), JSON, max_size=3
    ),
}
"""Beside anything: what is often right."""
NEEDED = {"/completion": {"prompt": "a"}, "/tokenize": {"content": "a"}, "/detokenize": {"tokens": []}} | {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/generate": {"inputs": "a"},
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "/a"},
    "/v1/unload_lora_adapter": {"lora_name": "a"},
}


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    with running_engine(home / "fields", FakeBackend(answer="ab\0", max_length=64)) as running:
        yield running


def some_body(path: str, data: st.DataObject) -> dict[str, Any]:
    """What is needed, and up to three fields with anything in them, of which one may be none of ours."""
    names = [field.name for field in fields(BODIES[path])]
    chosen = data.draw(st.lists(st.sampled_from([*names, "no_such_field"]), max_size=3, unique=True))
    return NEEDED.get(path, {}) | {name: data.draw(LIKELY.get(name, NUMBERS) | JSON) for name in chosen}


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=100)
@given(data=st.data())
def test_anything_is_answered_or_refused_by_its_fields_name(
    engine: RunningEngine, path: str, data: st.DataObject
) -> None:
    body = some_body(path, data)
    response = engine.http.post(path, json=body)
    if response.status_code == 200:
        assert response.content
        return
    assert response.status_code in (400, 404, 422), response.text
    names = {field.name for field in fields(BODIES[path])}
    if path == "/generate":
        assert response.json()["error"].split(".")[0].split(" ")[0].rstrip(":") in names
        return
    error = error_of(response)
    assert error["param"].split(".")[0].split("[")[0] in names
    assert error["param"] in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        *(
            ("/completion", {"prompt": value}, "prompt")
            for value in ([], [[]], [True], [1, None], {}, 5.5, None)
        ),
        ("/completion", {"prompt": [97, 256]}, "prompt"),
        ("/completion", {}, "prompt"),
        ("/completion", {"prompt": ["a"] * 65}, "prompt"),
        (
            "/completion",
            {"prompt": "a", "umbrella": {"segments": [{"kind": "prefix", "text": "a"}]}},
            "umbrella",
        ),
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": ["a"]}, "content"),
        ("/tokenize", {"content": "a" * ((1 << 20) + 1)}, "content"),
        *(("/tokenize", {"content": "a", name: 1}, name) for name in ("add_special", "parse_special")),
        ("/tokenize", {"content": "a", "with_pieces": "yes"}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        *(
            ("/detokenize", {"tokens": value}, "tokens")
            for value in ([256], [-1], ["a"], [True], "a", [1 << 70])
        ),
    ],
)
def test_what_cannot_be_served_is_named(engine: RunningEngine, path: str, body: dict, field: str) -> None:
    response = engine.http.post(path, json=body)
    assert response.status_code == 422
    assert error_of(response)["param"].split(".")[0].split("[")[0] == field


def test_what_is_not_asked_for_may_be_said_so(engine: RunningEngine) -> None:
    nothing = {"grammar": "", "post_sampling_probs": False, "json_schema": None, "response_fields": None}
    assert engine.http.post("/infill", json={**nothing, "n_predict": 1}).status_code == 200
