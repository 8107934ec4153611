"""Reads plain data (JSON, TOML) into frozen dataclasses, and says exactly what is wrong with it.

Types are strict: ``"3"`` is not 3 and ``true`` is not 1; an integer is accepted for a float. Ranges are
checked by a dataclass's own ``__post_init__``, which raises a ValueError that begins with the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_TYPES = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")


class SchemaError(ValueError):
    """Data of the wrong shape; `field` is the dotted path of what is wrong, '' for the whole."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def read(cls: type[T], data: object, *, where: str = "", forbid_unknown: bool = False) -> T:
    """Make a `cls` of `data`. `where` is the path of `data` in its document, and begins every path.

    Unknown keys are ignored, or refused with `forbid_unknown`: at the top level, and in lists of tables below
    it. Raises SchemaError.
    """
    if forbid_unknown and isinstance(data, Mapping):
        _refuse_unknown(cls, cast("Mapping[object, object]", data), where)
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise _explained(cls, error, where) from error


def require_between(name: str, value: float | None, low: float, high: float) -> None:
    """For a ``__post_init__``: raise ValueError unless `value` is None or in [low, high]."""
    # Written so that NaN fails.
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}")


def _refuse_unknown(cls: type, data: Mapping[object, object], where: str) -> None:
    known = [field.name for field in fields(cls)]
    kinds = get_type_hints(cls)
    for key, value in data.items():
        inner = get_args(kinds.get(str(key)))[:1]
        if isinstance(value, list) and inner and is_dataclass(inner[0]):
            for at, entry in enumerate(cast("list[object]", value)):
                if isinstance(entry, Mapping):
                    table = cast("Mapping[object, object]", entry)
                    _refuse_unknown(cast("type", inner[0]), table, _join(where, f"{key}[{at}]"))
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            path = _join(where, str(key))
            raise SchemaError(f"{path} is not a known key.{hint} Allowed: {', '.join(known)}", path)


def _explained(cls: type, error: msgspec.ValidationError, where: str) -> SchemaError:
    text = str(error)
    place = _PLACE.search(text)
    inner = place["path"].removeprefix(".") if place else ""
    text = _PLACE.sub("", text)
    path = _join(where, inner)
    if isinstance(error.__cause__, ValueError):
        # From a __post_init__: by convention its first word is the field's name.
        reason = str(error.__cause__)
        return SchemaError(_join(path, reason), _join(path, reason.split(" ", 1)[0]))
    if missing := _MISSING.match(text):
        field = _join(path, missing["name"])
        return SchemaError(f"{field} is missing", field)
    allowed = _choices(cls, inner)
    if allowed:
        return SchemaError(f"{path} must be one of {', '.join(map(repr, allowed))}", path)
    if types := _TYPES.match(text):
        return SchemaError(f"{path or 'this'} must be {types['wanted']}, not {types['got']}", path)
    return SchemaError(f"{path or 'this'}: {text}", path)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _choices(cls: object, path: str) -> tuple[object, ...]:
    """The values of the Literal at `path` in `cls`, or none where something else stands there."""
    at = cls
    for step in re.findall(r"\w+|\[[^\]]*\]", path):
        at = _without_none(at)
        if step.startswith("["):
            at = get_args(at)[0] if get_args(at) else object
        elif isinstance(at, type) and is_dataclass(at):
            at = get_type_hints(at)[step]
        else:
            return ()
    at = _without_none(at)
    return get_args(at) if get_origin(at) is Literal else ()


def _without_none(kind: object) -> object:
    if get_origin(kind) in (Union, UnionType):
        rest = [option for option in get_args(kind) if option is not NoneType]
        return rest[0] if len(rest) == 1 else kind
    return kind
