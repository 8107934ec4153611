"""``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, and how requests choose an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.config_tables import AdapterName
from tests.engine.fakes import RunningEngine, running_engine


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    """One whose requests are for the adapter "house", unless they name a model."""
    config = EngineConfig(
        model="fake", adapters=(AdapterName("house", "HOUSE"),), default_adapter="house", generation_length=5
    )
    with running_engine(home / "lora", config=config) as engine:
        yield engine


def complete(engine: RunningEngine, path: str = "/v1/completions", **body: object) -> str:
    answer = engine.http.post(path, json={"prompt": "a", "max_tokens": 5, **body}).raise_for_status().json()
    return answer["choices"][0]["text"] if "choices" in answer else answer["content"]


def test_an_adapter_is_loaded_chosen_by_name_and_unloaded(engine: RunningEngine) -> None:
    base = complete(engine, model="fake")
    body = {"lora_name": "new", "lora_path": "/NEW"}
    answer = engine.http.post("/v1/load_lora_adapter", json=body)
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'new' added successfully.")
    models = {card["id"]: card for card in engine.http.get("/v1/models").json()["data"]}
    assert (models["new"]["root"], models["new"]["parent"]) == ("/NEW", "fake")
    assert set(complete(engine, model="new")) <= set("/NEW")
    assert complete(engine, model="fake") == base
    again = engine.http.post("/v1/load_lora_adapter", json=body)
    assert again.status_code == 400
    assert "loaded already" in again.json()["error"]["message"]
    other = body | {"lora_path": "/OTHER", "load_inplace": True}
    assert engine.http.post("/v1/load_lora_adapter", json=other).status_code == 200
    assert set(complete(engine, model="new")) <= set("/OTHER")
    gone = engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "new"})
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'new' removed successfully.")
    assert engine.http.post("/v1/completions", json={"prompt": "a", "model": "new"}).status_code == 404


def test_requests_that_name_no_model_are_for_the_default_adapter_until_it_is_unloaded(
    engine: RunningEngine,
) -> None:
    def ask() -> list[str]:
        typed = complete(engine, "/infill", input_prefix="a", n_predict=5, model="whatever an editor sends")
        return [complete(engine), typed]

    assert set("".join(ask())) <= set("HOUSE")
    assert set(complete(engine, model="fake")).isdisjoint("HOUSE")
    assert engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "house"}).status_code == 200
    assert set("".join(ask())).isdisjoint("HOUSE")
    again = {"lora_name": "house", "lora_path": "/HOUSE"}
    assert engine.http.post("/v1/load_lora_adapter", json=again).status_code == 200
    assert set("".join(ask())) <= set("/HOUSE")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("load", {"lora_path": "/x"}, 400, "lora_name"),
        ("load", {"lora_name": "x"}, 400, "lora_path"),
        ("load", {"lora_name": "", "lora_path": "/x"}, 400, "lora_name"),
        ("load", {"lora_name": "x\n", "lora_path": "/x"}, 400, "lora_name"),
        ("load", {"lora_name": 3, "lora_path": "/x"}, 400, "lora_name"),
        ("load", {"lora_name": "x", "lora_path": "org/adapter"}, 400, "lora_path"),
        ("load", {"lora_name": "x", "lora_path": "/\0"}, 400, "lora_path"),
        ("load", {"lora_name": "fake", "lora_path": "/x"}, 400, "lora_name"),
        ("load", {"lora_name": "x", "lora_path": "/broken"}, 400, "lora_path"),
        ("load", {"lora_name": "x", "lora_path": "/nowhere"}, 404, "lora_path"),
        ("load", {"lora_name": "x", "lora_path": "/x", "load_inplace": "yes"}, 400, "load_inplace"),
        ("unload", {}, 400, "lora_name"),
        ("unload", {"lora_name": "x"}, 404, "lora_name"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_by_field(
    engine: RunningEngine, path: str, body: dict[str, object], status: int, param: str
) -> None:
    answer = engine.http.post(f"/v1/{path}_lora_adapter", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert error["message"]
    assert list(engine.http.get("/v1/models").json()["data"][1:]), "the one there was is still there"
