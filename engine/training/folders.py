"""Finds the source files of a folder of code, and the package each of them belongs to.

Owns what is looked at: languages, skipped folders, what git ignores. Opens no source file and follows
no link, so nothing outside of the folder is ever found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

LANGUAGES = {
    ".c": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cxx": "cpp",
    ".go": "go",
    ".h": "c",
    ".hpp": "cpp",
    ".java": "java",
    ".js": "javascript",
    ".jsx": "javascriptreact",
    ".mjs": "javascript",
    ".py": "python",
    ".pyi": "python",
    ".rs": "rust",
    ".ts": "typescript",
    ".tsx": "typescriptreact",
}
"""LSP language identifiers by suffix: what an editor writes into a request, and so into a prompt."""
PACKAGE_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "package.json", "Cargo.toml", "go.mod", ".git")
VENDORED = {"_vendor", "node_modules", "site-packages", "third_party", "vendor", "vendored"}
"""Folders of other people's code, whoever keeps them under version control."""
BUILT = {"__pycache__", "build", "dist", "env", "out", "target", "venv"}
"""Folders that tools write, where no version control says what was written by hand."""
SECRET_FILES = (".env.*", "credentials.*", "secret.*", "secrets.*")
"""By name alone. Of ``.env``, ``*.pem`` and the like none has a suffix in LANGUAGES."""


def language_of(path: Path) -> str:
    """The language a file name states, or '' where it is none that is learnt."""
    return LANGUAGES.get(path.suffix.lower(), "")


def is_secret(path: Path) -> bool:
    """Whether a source file is likely to hold passwords or keys, by its name."""
    return any(fnmatch(path.name.lower(), pattern) for pattern in SECRET_FILES)


def packages_under(root: Path) -> dict[Path, list[Path]]:
    """The files below `root` that were written by hand, as far as names tell, by the package they are in.

    A package is the nearest folder around a file that a package's own file marks as one, or else `root`.
    All in a fixed order.
    """
    homes: dict[Path, Path] = {root: root}
    packages: dict[Path, list[Path]] = {}
    for path in _files(root, _listed(root)):
        if not VENDORED.intersection(path.relative_to(root).parts[:-1]):
            packages.setdefault(_home(path.parent, homes), []).append(path)
    return packages


def _home(folder: Path, homes: dict[Path, Path]) -> Path:
    """The package that `folder` is in, remembered in `homes`, where the root is from the start."""
    if folder not in homes:
        homes[folder] = folder if _is_package(folder) else _home(folder.parent, homes)
    return homes[folder]


def _is_package(folder: Path) -> bool:
    if any((folder / name).exists() for name in PACKAGE_FILES):
        return True
    cmake = folder / "CMakeLists.txt"
    # Every folder of a CMake project has such a file; the project's own says so.
    return cmake.is_file() and "project(" in cmake.read_text("utf-8", "replace").lower()


def _files(folder: Path, listed: list[Path]) -> Iterator[Path]:
    """What git `listed` and what repositories within hold; where it listed nothing, all that looks right."""
    for path in listed or sorted(folder.iterdir()):
        if path.resolve() != path:  # it is a link, or lies behind one that git does not know of
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and (listed or _may_hold_source(path)):
            yield from _files(path, _listed(path) if (path / ".git").exists() else [])


def _may_hold_source(folder: Path) -> bool:
    name = folder.name
    if name.startswith(".") or name in BUILT | VENDORED or not os.access(folder, os.R_OK | os.X_OK):
        return False
    return not (folder / "pyvenv.cfg").exists()


def _listed(folder: Path) -> list[Path]:
    """What git tracks in `folder`, or does not ignore; nothing where the folder is in no checkout."""
    git = shutil.which("git")
    if git is None:
        return []
    # Variables of a git that runs us would point at its own repository; a monitor is a program of theirs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-c", "core.fsmonitor=false", "-C", str(folder), "ls-files", "-z"]
    asked = subprocess.run(
        [*command, "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
        env=environment,
    )
    names = sorted({os.fsdecode(name) for name in asked.stdout.split(b"\0") if name})
    return [folder / name for name in names] if asked.returncode == 0 else []
