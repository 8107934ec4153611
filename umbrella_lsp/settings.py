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
    min_confidence: float = 0.002
    """Least probability, by the model, of the first line of a suggestion that is shown unasked; 0 shows all.

    With the shipped pair two of five suggestions on unseen code lie under it, of whose first lines one in a
    hundred is right. Of those just above it one in fifteen is: worth showing to who can take a part of it.
    """
    alternatives: int = 3
    """Texts at most, where somebody asks rather than an editor by itself."""
    workspace: bool = True
    """Whether other files of the workspace are read, so that their definitions can be shown to the model."""
    max_files: int = 10_000
    """Of the workspace's source files, those nearest to its folders are read."""
    secret_files: tuple[str, ...] = ()
    """Patterns, as of a shell, of files that never go into a prompt, besides those known to hold secrets."""
    statistics: bool = True
    """Whether what becomes of suggestions is counted in a file of the user's own."""
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


_CLIENTS_OWN = {"server"}
"""What editors keep in the same section, about how they start us."""
_LIMITS = {
    "max_lines": (1, 100),
    "max_tokens": (1, 1024),
    "min_confidence": (0, 1),
    "alternatives": (1, 8),
    "max_files": (1, 100_000),
}


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
    for key, sent in cast("Mapping[str, object]", data).items():
        if key in _CLIENTS_OWN:
            continue
        value = _as_kept(sent, kinds.get(key))
        if key not in kinds:
            problems.append(f"umbrella.{key} is no setting; there are {', '.join(kinds)}")
        elif type(value) is not kinds[key]:
            problems.append(f"umbrella.{key} must be {_named(kinds[key])}, not {value!r}")
        elif key in _LIMITS and not _LIMITS[key][0] <= cast("float", value) <= _LIMITS[key][1]:
            low, high = _LIMITS[key]
            problems.append(f"umbrella.{key} must be from {low} to {high}, not {value!r}")
        else:
            chosen[key] = value
    return Reading(replace(base, **chosen), tuple(problems))


def _as_kept(value: object, kind: type[object] | None) -> object:
    """A list of texts, and a whole number where any number will do, as it is kept; all else as it is."""
    if kind is float and type(value) is int:
        return float(value)
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    return tuple(items) if all(isinstance(item, str) for item in items) else cast("object", value)


def _named(kind: type[object]) -> str:
    names: dict[type[object], str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        tuple: "a list of texts",
    }
    return names[kind]
