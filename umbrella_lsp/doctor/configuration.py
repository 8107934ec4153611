"""The engine's configuration as its next start would read it, and whether its checkpoints are there."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

from engine.config import EngineConfig, default_path, load
from engine.errors import UmbrellaError
from engine.footprint import needed_bytes
from umbrella_lsp.doctor.report import Configuration


def look_at_configuration(named: Path | None) -> Configuration:
    """What `named`, or the default file, says."""
    file = named or default_path()
    if named is not None:
        named_by = "--config"
    elif file is None:
        named_by = "defaults"
    else:
        named_by = "UMBRELLA_CONFIG" if os.environ.get("UMBRELLA_CONFIG") else "the default place"
    shown = str(file) if file else None
    try:
        config = load(file)
    except UmbrellaError as error:
        return Configuration(shown, named_by, {}, "", "", problem=str(error))
    usual = asdict(EngineConfig())
    changed = {key: value for key, value in asdict(config).items() if value != usual[key]}
    found = Configuration(shown, named_by, changed, config.digest(), config.device)
    try:
        return replace(
            found,
            needed_bytes=needed_bytes(config, on_gpu=False),
            needed_gpu_bytes=needed_bytes(config, on_gpu=True),
        )
    except UmbrellaError as error:
        return replace(found, models_problem=str(error))
