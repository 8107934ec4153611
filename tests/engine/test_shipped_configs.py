"""The configuration files users copy stay true to the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from engine.config import EngineConfig, load

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_each_shipped_configuration_loads(path: Path) -> None:
    assert load(path).model


def test_the_bundled_configuration_names_every_key_with_its_default() -> None:
    path = CONFIGS / "bundled.toml"

    named = set(re.findall(r"^(?:# )?(\w+) = ", path.read_text(), re.MULTILINE))

    assert named == {field.name for field in fields(EngineConfig)}
    assert load(path) == EngineConfig()
