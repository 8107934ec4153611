"""Under which licence a package stands, by its own word, and what a policy makes of that.

Reads metadata files of packages; knows nothing of their source. It is a filter for what people say of
their code, and no legal advice.
"""

from __future__ import annotations

import json
import re
import tomllib
from email.message import Message
from pathlib import Path
from typing import Any, Literal, get_args

LicencePolicy = Literal["permissive", "not-copyleft", "any"]
"""``permissive`` wants a permissive licence stated, ``not-copyleft`` takes what states no other kind."""
LICENCE_POLICIES: tuple[LicencePolicy, ...] = get_args(LicencePolicy)

PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|HPND|Zope|0BSD|Unlicense|CC0|Zlib|BSL-1\.0)\b",
    re.IGNORECASE,
)
RESTRICTIVE = re.compile(
    r"\b([AL]?GPL|GNU|MPL|Mozilla|EUPL|EPL|CDDL|SSPL|BUSL|CC-BY-NC|CC-BY-SA|Proprietary|Commercial|UNLICENSED)"
    r"(\b|(?=v?\d))",
    re.IGNORECASE,
)
SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]+)")
TEXTS = {
    "AGPL-3.0": "GNU Affero General Public License",
    "LGPL": "GNU Lesser General Public License",
    "GPL": "GNU General Public License",
    "MPL-2.0": "Mozilla Public License",
    "EPL": "Eclipse Public License",
    "SSPL-1.0": "Server Side Public License",
    "BUSL-1.1": "Business Source License",
    "Proprietary": "proprietary",
    "Apache-2.0": "Apache License",
    "MIT": "Permission is hereby granted, free of charge",
    "ISC": "Permission to use, copy, modify, and",
    "BSD": "Redistribution and use in source and binary forms",
    "Unlicense": "This is free and unencumbered software",
    "CC0-1.0": "CC0 1.0 Universal",
    "BSL-1.0": "Boost Software License",
}
"""How a licence's text begins, or the words by which it is known. The one that comes first decides."""
LICENCE_FILES = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)


def is_permissive(licence: str) -> bool:
    """Whether a stated licence lets its text be learnt from and redistributed in this form."""
    return any(PERMISSIVE.search(one) and not RESTRICTIVE.search(one) for one in _alternatives(licence))


def allows(policy: LicencePolicy, licence: str) -> bool:
    """Whether `policy` lets a package be learnt from that states `licence`, or nothing where it is ''."""
    if policy == "any":
        return True
    if policy == "permissive":
        return is_permissive(licence)
    return any(not RESTRICTIVE.search(one) for one in _alternatives(licence))


def _alternatives(licence: str) -> list[str]:
    """The licences of an SPDX expression among which the reader may choose."""
    return [licence] if "(" in licence else re.split(r"\s+OR\s+", licence)


def wheel_licence(metadata: Message) -> str:
    """The licence a wheel's METADATA states, in its own words, or '' where it states none."""
    if expression := metadata.get("License-Expression"):
        return expression
    if stated := _classified(metadata.get_all("Classifier", [])):
        return stated
    return (metadata.get("License") or "").strip().split("\n")[0][:80]


def _classified(classifiers: list[str]) -> str:
    licences = [c for c in classifiers if c.startswith("License ::")]
    return "; ".join(c.rsplit("::", 1)[-1].strip() for c in licences)


def file_licence(text: str) -> str:
    """The licence that a source file's own header states as SPDX, or ''."""
    found = SPDX.search(text[:2000])
    return found[1].strip(" -") if found else ""


def licence_of_text(text: str) -> str:
    """The short name of the licence whose text this is, or '' where it is none of the well-known ones."""
    words = " ".join(text[:3000].lower().split())
    found = {name: at for name, known in TEXTS.items() if (at := words.find(known.lower())) >= 0}
    return min(found, key=lambda name: found[name], default="")


def folder_licence(folder: Path, root: Path) -> str:
    """The licence stated for the package in `folder`, or else for what it lies in, up to `root`; or ''."""
    for place in (folder, *folder.parents):
        if licence := _stated_in(place):
            return licence
        if place == root:
            break
    return ""


def _stated_in(folder: Path) -> str:
    for stated in (_pyproject(folder), _package_json(folder), _cargo(folder)):
        if stated:
            return stated[:80]
    files = sorted(path for path in folder.iterdir() if LICENCE_FILES.match(path.name) and path.is_file())
    # Several files mean a choice among them, as Rust's packages have it.
    known = [licence_of_text(_text(path)) for path in files]
    return " OR ".join(dict.fromkeys(name for name in known if name))


def _table(value: Any, *keys: str) -> Any:
    """What lies under `keys` in nested tables, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(path: Path) -> str:
    """What the file says, or '' where it is missing or closed to us."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except ValueError:
        return {}


def _name(value: Any) -> str:
    """A licence as these files give it: a name, or a table that holds one."""
    if isinstance(value, dict):
        value = value.get("text") or value.get("type")
    return (licence_of_text(value) or value.strip().split("\n")[0]) if isinstance(value, str) else ""


def _pyproject(folder: Path) -> str:
    metadata = _toml(folder / "pyproject.toml")
    classifiers = [str(c) for c in _table(metadata, "project", "classifiers") or ()]
    poetry = _name(_table(metadata, "tool", "poetry", "license"))
    return _name(_table(metadata, "project", "license")) or poetry or _classified(classifiers)


def _package_json(folder: Path) -> str:
    try:
        metadata = json.loads(_text(folder / "package.json"))
    except ValueError:
        return ""
    stated = _name(_table(metadata, "license"))
    return "" if stated.startswith("SEE LICEN") else stated


def _cargo(folder: Path) -> str:
    cargo = _toml(folder / "Cargo.toml")
    return _name(_table(cargo, "package", "license")) or _name(
        _table(cargo, "workspace", "package", "license")
    )
