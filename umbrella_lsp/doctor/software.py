"""Versions of what runs here, and the editors there are. Imports nothing in order to ask it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import cast

from engine import __version__
from engine.protocol import PROTOCOL_VERSION
from umbrella_lsp.doctor.machine import TIMEOUT_S
from umbrella_lsp.doctor.report import Editor, Versions

DRAWN_SINCE = (0, 12)
"""The first Neovim that draws inline completion."""
ASKED = {"nvim": r"NVIM v([\d.]+\S*)", "emacs": r"GNU Emacs ([\d.]+)", "hx": r"helix ([\d.]+)"}
"""Editors that say their version at once, and how."""
OF_VS_CODE = ("code", "code-insiders", "codium", "code-server", "cursor")
"""These take a second to say it, and within WSL fetch something first: a file of theirs is read instead."""
_PACKAGE_FILES = ("resources/app/package.json", "package.json")
_PACKAGE = re.compile(r"[\w.-]+")
_OURS = ("UMBRELLA_CONFIG", "UMBRELLA_RUNTIME_DIR")


def look_at_versions() -> Versions:
    """What runs here."""
    environment = {name: os.environ[name] for name in _OURS if name in os.environ}
    return Versions(
        umbrella=__version__,
        protocol=PROTOCOL_VERSION,
        python=platform.python_version(),
        python_path=sys.executable,
        system=_system(),
        packages=_packages(),
        environment=environment,
    )


def look_for_editors() -> tuple[Editor, ...]:
    """Those on PATH that a client of ours exists for."""
    found: list[Editor] = []
    for command, pattern in ASKED.items():
        if path := shutil.which(command):
            version = _said_version(path, pattern)
            found.append(Editor(command, path, version, _draws(version) if command == "nvim" else None))
    paths = ((command, shutil.which(command)) for command in OF_VS_CODE)
    found += [Editor(command, path, _written_version(Path(path))) for command, path in paths if path]
    return tuple(found)


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return f"{name}, {platform.platform()}" if name else platform.platform()


def _packages() -> dict[str, str | None]:
    """Every package that ours needs at run time, with its version."""
    try:
        required = metadata.requires("umbrella-lsp") or []
    except metadata.PackageNotFoundError:
        return {}
    names = [_PACKAGE.match(line) for line in required if "extra ==" not in line]
    found: dict[str, str | None] = {}
    for name in sorted(match[0] for match in names if match):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _said_version(path: str, pattern: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = re.search(pattern, done.stdout)
    return said[1] if said else ""


def _draws(version: str) -> bool | None:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) >= DRAWN_SINCE if numbers else None


def _written_version(command: Path) -> str:
    """The version in the package file that lies around `command`, a script in a folder of the editor's."""
    folders = list(command.resolve().parents)[:4]
    for file in (folder / name for folder in folders for name in _PACKAGE_FILES):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return str(cast("dict[str, object]", found).get("version", ""))
    return ""
