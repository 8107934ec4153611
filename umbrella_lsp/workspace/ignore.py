"""Which files the workspace's own rules leave out: git's, and ours in ``.umbrellaignore``.

Knows the syntax and the precedence of gitignore(5), and not what is a source or a secret.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pathspec import GitIgnoreSpec

from umbrella_lsp.text import normalised
from umbrella_lsp.workspace.reading import read_regular

IGNORE_FILES = (".gitignore", ".umbrellaignore")
"""In each directory; what the latter says goes over the former."""
MAX_IGNORE_BYTES = 200_000

_ANYTHING = {"*", "*/", "**", "**/", "**/*", "**/*/", "/**/*"}


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that hold in one directory, those of the outermost one first."""

    levels: tuple[tuple[str, GitIgnoreSpec], ...] = ()
    """Directories, and patterns relative to them."""

    @staticmethod
    def around(root: Path) -> Rules:
        """What the git repository that `root` lies in says of it from above; nothing if it lies in none."""
        above = (root, *root.parents)
        # Unlike `Path.exists`, `os.path.exists` takes what may not be looked at for not there.
        top = next((n for n, folder in enumerate(above) if os.path.exists(folder / ".git")), 0)  # noqa: PTH110
        rules = Rules()
        for directory in reversed(above[1 : top + 1]):
            rules = rules.within(directory)
        return rules

    def within(self, directory: Path) -> Rules:
        """The rules in `directory`, whose parent's these are. Reads its ignore files."""
        patterns = list[str]()
        for name in (".git/info/exclude", *IGNORE_FILES):
            data = read_regular(directory / name, MAX_IGNORE_BYTES) or b""
            patterns += normalised(data.decode("utf-8-sig", "replace")).split("\n") if data else ()
        return Rules((*self.levels, (str(directory), _spec(patterns)))) if patterns else self

    def exclude(self, path: str, *, is_directory: bool) -> bool:
        """Whether `path`, whose directory these rules are of, is left out."""
        for directory, spec in reversed(self.levels):
            relative = path[len(directory) :].replace(os.sep, "/").lstrip("/")
            is_excluded = _excludes(spec, relative, is_directory=is_directory)
            if is_excluded is not None:
                return is_excluded
        return False


def _excludes(spec: GitIgnoreSpec, path: str, *, is_directory: bool) -> bool | None:
    """What the last pattern that is about `path` itself says of it; None if there is none.

    `GitIgnoreSpec` knows files only, and takes a pattern for a directory to be about everything in it. Where
    directories are entered one by one, as git does, that would make ``*`` go over ``!*/``, and ``!a/`` over
    ``build/`` in a/build. What a pattern means is its part all the same.
    """
    for pattern in reversed(spec.patterns):
        body = cast("str", pattern.pattern).rstrip().lstrip("!")  # pyright: ignore[reportUnknownMemberType]
        if pattern.include is None or (body.endswith("/") and not is_directory):
            continue
        found = pattern.match_file(path + "/" * body.endswith("/"))
        if found is None:
            continue
        end = cast("re.Match[str]", found.match).end()  # pyright: ignore[reportUnknownMemberType]
        if end >= len(path) or body in _ANYTHING or body.endswith("/**"):
            return pattern.include
    return None


def _spec(patterns: list[str]) -> GitIgnoreSpec:
    """Patterns as git takes them: one that makes no sense is passed over."""
    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError:
        return GitIgnoreSpec.from_lines(filter(_is_pattern, patterns))


def _is_pattern(text: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([text])
    except ValueError:
        return False
    return True
