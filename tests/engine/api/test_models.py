"""Which model a request names, and which there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api.models import adapter_or_default, resolve
from engine.config import EngineConfig
from engine.config_tables import AdapterName
from engine.errors import UnknownModel
from tests.engine.fakes import running_engine

ADAPTERS = {"house-style": "/adapters/house-style"}
CONFIG = EngineConfig(
    model="/models/org/big",
    adapters=(AdapterName("house-style", "/adapters/house-style"),),
    default_adapter="house-style",
)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        (None, "house-style"),
        ("", "house-style"),
        ("house-style", "house-style"),
        ("/models/org/big", ""),
        ("org/big", ""),
    ],
)
def test_a_name_is_the_targets_or_an_adapters_and_none_is_the_default(name: str | None, adapter: str) -> None:
    assert resolve(name, CONFIG, ADAPTERS) == adapter


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownModel, match="house-style") as caught:
        resolve("gpt-4", CONFIG, ADAPTERS)
    assert caught.value.field == "model"


def test_a_default_adapter_that_is_not_loaded_is_the_target_itself() -> None:
    assert resolve(None, CONFIG, {}) == ""


def test_llama_servers_clients_may_name_anything() -> None:
    assert adapter_or_default("gpt-4", CONFIG, ADAPTERS) == "house-style"
    assert adapter_or_default("house-style", EngineConfig(), ADAPTERS) == "house-style"
    assert adapter_or_default("", EngineConfig(), ADAPTERS) == ""


def test_the_target_is_listed_with_its_context_and_found_by_a_name_with_slashes(home: Path) -> None:
    with running_engine(home / "models", config=EngineConfig(model="org/fake")) as running:
        [card] = running.http.get("/v1/models").json()["data"]
        assert (card["id"], card["max_model_len"], card["parent"]) == ("org/fake", 1 << 16, None)
        assert running.http.get("/v1/models/org/fake").json() == card
        assert running.http.get("/models").json()["data"] == [card]
        assert running.http.get("/v1/models/org").status_code == 404
