"""What the user can choose, as one frozen value. Knows nothing of how an editor sends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Settings:
    """The section ``umbrella`` of an editor's settings; every key has the name of its field."""

    enabled: bool = True
    max_lines: int = 8
    """Lines of a suggestion where a block is wanted; 1 never suggests more than the line."""
    max_tokens: int = 96
    workspace: bool = True
    """Whether other files of the workspace are read, so that their definitions can be shown to the model."""
    engine_config: str = ""
    """Path of an engine configuration, used if this server is the one to start the engine."""

    @property
    def engine_config_path(self) -> Path | None:
        """The configuration to start an engine with, or None for the default one."""
        return Path(self.engine_config).expanduser() if self.engine_config else None


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings as read, and a sentence about each thing that was not understood."""

    settings: Settings
    problems: tuple[str, ...] = ()


_LIMITS = {"max_lines": (1, 100), "max_tokens": (1, 1024)}


def read_settings(base: Settings, data: object) -> Reading:
    """`base` with what `data`, the JSON object an editor sent, says otherwise.

    An unknown key or a value of another kind changes nothing and is reported; None is no object at all
    and means that the editor has nothing to say.
    """
    if data is None:
        return Reading(base)
    if not isinstance(data, Mapping):
        return Reading(base, (f"umbrella: settings are an object, not {type(data).__name__}",))
    kinds: dict[str, type[object]] = {field.name: type(getattr(base, field.name)) for field in fields(base)}
    chosen: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in cast("Mapping[str, object]", data).items():
        if key not in kinds:
            problems.append(f"umbrella.{key} is no setting; there are {', '.join(kinds)}")
        elif type(value) is not kinds[key]:
            problems.append(f"umbrella.{key} must be {_named(kinds[key])}, not {value!r}")
        elif key in _LIMITS and not _LIMITS[key][0] <= cast("int", value) <= _LIMITS[key][1]:
            low, high = _LIMITS[key]
            problems.append(f"umbrella.{key} must be from {low} to {high}, not {value!r}")
        else:
            chosen[key] = value
    return Reading(replace(base, **chosen), tuple(problems))


def _named(kind: type[object]) -> str:
    names: dict[type[object], str] = {bool: "true or false", int: "a whole number", str: "a text"}
    return names[kind]
