"""What the engine refuses to serve, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from engine.api.infill import ExtraFile, InfillBody
from engine.protocol import Segment, StopSpec, UmbrellaRequest
from tests.engine.fakes import RunningEngine, error_of, running_engine

SNIPPET = {"kind": "snippet", "text": "xxxx"}
TOO_LARGE = 1 << 63


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    with running_engine(home / "refusals") as running:
        yield running


def segment(**changes: object) -> dict[str, object]:
    return {"umbrella": {"segments": [SNIPPET | changes]}}


BIASES = [
    5,
    "1",
    {"1": 101},
    {"1": -101},
    {"1": "2"},
    {"1": True},
    {"1": False},
    {"1": None},
    {"-1": 1},
    {"one": 1},
    {"": 1},
    {"9" * 5000: 1},
    {"1": 1, "01": 1},
    {"999": 1},
    [[1, 101]],
    [[1, True]],
    [[-1, 1]],
    [[True, 1]],
    [["text", 1]],
    [[1]],
    [[1, 1, 1]],
    [1, 1],
    [[1, 1], [1, 2]],
    [[999, False]],
    [[at, 1] for at in range(1025)],
]
EITHER: list[tuple[dict, str]] = [
    *(({"temperature": value}, "temperature") for value in (-1, 101, "1", True)),
    *(({"top_p": value}, "top_p") for value in (-0.1, 1.1)),
    *(({"seed": value}, "seed") for value in (-2, TOO_LARGE, 1.5, "1")),
    *(({"stop": value}, "stop") for value in ([""], ["x", ""], "", 5, ["x"] * 17, "x" * 4097)),
    *(({"stream": value}, "stream") for value in (1, "true")),
    *(({"logit_bias": value}, "logit_bias") for value in BIASES),
    ({"umbrella": 5}, "umbrella"),
    *(({"umbrella": {"n": value}}, "umbrella.n") for value in (0, 17, -1, 1.5, "2")),
    ({"umbrella": {"version": 0}}, "umbrella.version"),
    *(({"umbrella": {name: 5}}, f"umbrella.{name}") for name in ("path", "language", "session", "workspace")),
    ({"umbrella": {"priority": "soon"}}, "umbrella.priority"),
    ({"umbrella": {"tier": "both"}}, "umbrella.tier"),
    ({"umbrella": {"speculative": 1}}, "umbrella.speculative"),
    *(({"umbrella": {"stop": {"strings": value}}}, "umbrella.stop.strings") for value in ([""], ["x"] * 17)),
    ({"umbrella": {"stop": {"max_lines": 0}}}, "umbrella.stop.max_lines"),
    ({"umbrella": {"stop": {"min_indent": -1}}}, "umbrella.stop.min_indent"),
    *(({"umbrella": {"segments": value}}, "umbrella.segments") for value in (5, [SNIPPET] * 257)),
    *(
        (segment(**{name: value}), f"umbrella.segments[0].{name}")
        for name, value in (
            ("kind", "x"),
            ("text", 5),
            ("path", 5),
            ("language", 5),
            ("rank", "high"),
            ("stability", "both"),
        )
    ),
]
INFILL: list[tuple[dict, str]] = [
    *(({"n_predict": value}, "n_predict") for value in (-2, (1 << 20) + 1, "3", 1.5)),
    *(({"top_k": value}, "top_k") for value in (-2, 1 << 25)),
    *(({"min_p": value}, "min_p") for value in (-0.1, 2)),
    *(({"repeat_penalty": value}, "repeat_penalty") for value in (0, 101)),
    *(({"t_max_predict_ms": value}, "t_max_predict_ms") for value in (-1, 1e10)),
    *(({name: 5}, name) for name in ("input_prefix", "input_suffix", "prompt", "input_extra", "model")),
    *(({"n_cmpl": value}, "n_cmpl") for value in (0, 17, "1")),
    *(({"n_probs": value}, "n_probs") for value in (-1, 21)),
    *(({"n_indent": value}, "n_indent") for value in (-1, 1.5)),
    *(({name: 101}, name) for name in ("presence_penalty", "frequency_penalty")),
    *(({name: "yes"}, name) for name in ("ignore_eos", "return_tokens", "response_fields")),
    ({"grammar": "root ::= [0-9]"}, "grammar"),
    ({"json_schema": {}}, "json_schema"),
    ({"post_sampling_probs": True}, "post_sampling_probs"),
    ({"input_extra": [{"text": ""}] * 257}, "input_extra"),
    ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
    ({"input_extra": [{"text": "a", "filename": 5}]}, "input_extra[0].filename"),
    ({"input_prefix": "a", **segment(kind="prefix")}, "input_prefix"),
    ({"prompt": "a", **segment(kind="prefix")}, "prompt"),
    ({"input_suffix": "a", **segment(kind="suffix")}, "input_suffix"),
]
CASES = [*EITHER, *INFILL]


@pytest.mark.parametrize(("body", "field"), CASES, ids=lambda value: str(value)[:60])
def test_a_field_that_cannot_be_served_is_named(engine: RunningEngine, body: dict, field: str) -> None:
    response = engine.http.post("/infill", json=body)
    assert response.status_code == 422
    error = error_of(response)
    assert error["param"] == field
    assert field in error["message"]


def test_every_field_there_is_has_been_tried() -> None:
    def names(cls: type, before: str = "") -> set[str]:
        return {f"{before}{field.name}" for field in fields(cls)}

    ours = (
        names(UmbrellaRequest, "umbrella.")
        | names(StopSpec, "umbrella.stop.")
        | names(Segment, "umbrella.segments[0].")
    )
    tried = {field for _, field in CASES}
    infill = names(InfillBody) | names(ExtraFile, "input_extra[0].") | ours
    # A field that holds fields has been tried where they have.
    assert infill - tried == {"umbrella.stop"}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400])
@pytest.mark.parametrize(
    "field",
    [
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repeat_penalty",
        "seed",
        "n_predict",
        "t_max_predict_ms",
        "logit_bias",
    ],
)
def test_a_number_beyond_all_numbers_is_refused_by_its_fields_name(
    engine: RunningEngine, field: str, number: str
) -> None:
    value = f'{{"1": {number}}}' if field == "logit_bias" else number
    response = engine.http.post("/infill", content=f'{{"prompt": "a", "{field}": {value}}}')
    assert response.status_code == 422
    assert error_of(response)["param"] == field


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[1]", b'"text"', b'{"seed": NaN}', b'{"top_p": Infinity}'),
        *(b"\xff", b'{"prompt": "\xff"}', b"[" * 100_000),
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(engine: RunningEngine, body: bytes) -> None:
    response = engine.http.post("/infill", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_body_beyond_the_limit_is_a_413(engine: RunningEngine) -> None:
    response = engine.http.post("/infill", json={"input_prefix": "x" * (17 << 20)})
    assert response.status_code == 413
    assert "16 MB" in error_of(response)["message"]


@pytest.mark.parametrize("value", ["[]", '""'])
def test_a_body_of_too_many_values_is_refused_unread(engine: RunningEngine, value: str) -> None:
    response = engine.http.post("/infill", content=f'{{"x": [{f"{value}," * 300_000}0]}}')
    assert response.status_code == 400
    assert "values" in error_of(response)["message"]


def test_what_stands_in_a_text_is_no_value(engine: RunningEngine) -> None:
    assert engine.http.post("/tokenize", json={"content": ',"[\\' * 140_000}).status_code == 200


def test_names_that_are_not_there_are_not_kept(engine: RunningEngine) -> None:
    for name in ("secret-1", "secret/2"):
        assert engine.http.get(f"/v1/models/{name}").status_code == 404
    assert "secret" not in engine.http.get("/metrics").text


def test_a_host_says_nothing_of_the_path(engine: RunningEngine) -> None:
    response = engine.http.post("/generate", json={}, headers={"Host": "x/y?"})
    assert response.json()["error_type"] == "validation"


def test_what_does_not_exist_is_said_in_json(engine: RunningEngine) -> None:
    assert engine.http.get("/nothing").json()["error"]["code"] == 404
    assert engine.http.get("/infill").json()["error"]["code"] == 405
