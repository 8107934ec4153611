"""What the user can choose, as one frozen value. Knows nothing of how an editor sends it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T", "EngineSettings", "Settings")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The group ``umbrella.engine``: which engine is asked."""

    config: str = ""
    """Path of an engine configuration, used if this server is the one to start the engine."""
    url: str = ""
    """An engine elsewhere, which is used as it is and never started: ``http://HOST:PORT``,
    ``https://HOST[:PORT]`` or ``unix:///PATH``. '' is this user's own, found or started."""
    token_file: str = ""
    """Path of the file that holds the bearer token of the engine at `url`."""

    @property
    def config_path(self) -> Path | None:
        """The configuration to start an engine with, or None for the default one."""
        # Path's own raises for an unknown user.
        return Path(os.path.expanduser(self.config)) if self.config else None  # noqa: PTH111


@dataclass(frozen=True, slots=True)
class Settings:
    """The section ``umbrella`` of an editor's settings; every key has the name of its field, or the same name
    in camel case.
    """

    enabled: bool = True
    languages: tuple[str, ...] = ()
    """Ids of the languages to suggest in; () leaves it to what the model knows."""
    disabled_languages: tuple[str, ...] = ()
    """Ids of languages in which nothing is suggested."""
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
    completion_list: bool = False
    """Whether suggestions are offered in ordinary completion lists too, for editors without ghost text."""
    engine: EngineSettings = field(default_factory=EngineSettings)


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings as read, and a sentence about each thing that was not understood."""

    settings: Settings
    problems: tuple[str, ...] = ()


MAX_QUOTED_CHARS = 80
"""Of what was sent, in a sentence about it."""
_CLIENTS_OWN = {"umbrella.server", "umbrella.trace"}
"""What editors keep in the same section, about how they start us and what they log."""
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
    problems: list[str] = []
    return Reading(_read_group(base, data, "umbrella", problems), tuple(problems))


def _read_group(base: T, data: object, path: str, problems: list[str]) -> T:
    """`base`, the group at `path`, with what `data` says otherwise; sentences go to `problems`."""
    if not isinstance(data, Mapping):
        problems.append(f"{path} must be an object of settings, not {_shown(data)}")
        return base
    values = {field.name: cast("object", getattr(base, field.name)) for field in fields(base)}
    names = {spelling: name for name in values for spelling in (name, _camel_case(name))}
    chosen: dict[str, Any] = {}
    for key, sent in cast("Mapping[str, object]", data).items():
        where = f"{path}.{_cut(str(key))}"
        if where in _CLIENTS_OWN:
            continue
        name = names.get(key)
        if name is None:
            problems.append(f"{where} is no setting; there are {', '.join(values)}")
        elif isinstance(group := values[name], EngineSettings):
            chosen[name] = _read_group(group, sent, where, problems)
        elif problem := _problem_with(name, value := _as_kept(sent, type(values[name])), type(values[name])):
            problems.append(f"{where} must be {problem}, not {_shown(value)}")
        else:
            chosen[name] = value
    return replace(base, **chosen)


def _problem_with(name: str, value: object, kind: type[object]) -> str:
    """What the value of a setting must be, or '' if that is what it is."""
    if type(value) is not kind:
        return _named(kind)
    low, high = _LIMITS.get(name, (0, 0))
    return f"from {low} to {high}" if name in _LIMITS and not low <= cast("float", value) <= high else ""


def _as_kept(value: object, kind: type[object]) -> object:
    """A list of texts, and a whole number where any number will do, as it is kept; all else as it is."""
    if kind is float and type(value) is int:
        return float(value)
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    return tuple(items) if all(isinstance(item, str) for item in items) else cast("object", value)


def _shown(value: object) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    """Short enough for a sentence to be read."""
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _named(kind: type[object]) -> str:
    names: dict[type[object], str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        tuple: "a list of texts",
    }
    return names[kind]
