"""Configurations and machines to plan for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.config import EngineConfig
from engine.memory import GIB
from engine.offload.machine import Machine


def config(models: Path, model: str, *drafts: str, **changes: object) -> EngineConfig:
    """Of models below that folder."""
    named = EngineConfig(model=str(models / model), draft_model=tuple(str(models / each) for each in drafts))
    return replace(named, **changes)  # pyright: ignore[reportArgumentType]


def card(vram: float, ram: float = 64) -> Machine:
    """One with a GPU; both in GiB."""
    return Machine.card(int(vram * GIB), int(ram * GIB))
