"""The order in which a workspace's directories are looked through, and what in them counts. Reads no file.

Nearest first: the directory that was asked for and what lies under it, then its parent, and so on up to the
workspace folder; without one, each folder breadth first. Links are not followed, so there are no circles.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from umbrella_lsp.exclude import is_foreign
from umbrella_lsp.workspace.ignore import Rules
from umbrella_lsp.workspace.messages import Configure
from umbrella_lsp.workspace.reading import MAX_FILE_BYTES, can_be_sent, is_source, stamp_of

MAX_DIRECTORIES = 20_000
MAX_ENTRIES = 1_000_000
MAX_ENTRIES_IN_DIRECTORY = 50_000
PROJECT_MARKS = (
    ".git",
    "CMakeLists.txt",
    "Cargo.toml",
    "Makefile",
    "build.gradle",
    "go.mod",
    "package.json",
    "pom.xml",
    "pyproject.toml",
    "setup.py",
)


@dataclass(frozen=True, slots=True)
class Found:
    """A source file, and what changes when it does."""

    path: str
    stamp: int


class Walk:
    """One pass over a workspace. Each `list` may block for as long as the disk does."""

    def __init__(self, options: Configure, roots: tuple[str, ...] = ()) -> None:
        """`roots` are those of the folders that are gone through."""
        self._options = options
        self._roots = roots
        self._skipped = set(options.skipped)
        self._waiting = deque[tuple[str, Rules | None]]()
        """Directories and the rules of their parents; None where those are yet to be read."""
        self._starts = deque(_starts(roots, options.near))
        self._entries = 0
        self._files = 0
        self.directories: dict[str, Rules] = {}
        """Those that were listed, and the rules in them."""
        self.is_cut_short = False
        """There is more than is looked at."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Folders that were to be gone through and could not be listed."""
        return () if self.is_cut_short else tuple(r for r in self._roots if r not in self.directories)

    def next(self) -> str | None:
        """The directory to `list` next; None at the end."""
        while True:
            if not self._waiting:
                if not self._starts:
                    return None
                self._waiting.append((self._starts.popleft(), None))
            directory = self._waiting[0][0]
            if directory not in self.directories and directory not in self._skipped:
                is_full = self._entries >= MAX_ENTRIES or self._files >= self._options.max_files
                if is_full or len(self.directories) >= MAX_DIRECTORIES:
                    self.is_cut_short = True
                    return None
                return directory
            self._waiting.popleft()

    def list(self, directory: str) -> tuple[Found, ...]:
        """The sources in the directory that `next` has named."""
        above = self._waiting.popleft()[1]
        rules = rules_in(directory, self._roots) if above is None else above.within(Path(directory))
        if rules is None:
            return ()
        try:
            with os.scandir(directory) as scan:
                entries = list(islice(scan, MAX_ENTRIES_IN_DIRECTORY + 1))
        except OSError:
            return ()
        self._entries += len(entries)
        self.is_cut_short |= len(entries) > MAX_ENTRIES_IN_DIRECTORY
        is_root = directory in self._roots
        if not is_root and is_foreign("", (entry.name for entry in entries)):
            return ()
        self.directories[directory] = rules
        found = list[Found]()
        for entry in sorted(entries, key=lambda entry: entry.name):
            with suppress(OSError):  # It is gone.
                if entry.is_dir(follow_symlinks=False):
                    if is_walked(entry.path, rules):
                        self._waiting.append((entry.path, rules))
                elif self._is_wanted(entry, rules):
                    found.append(Found(entry.path, stamp_of(entry.stat(follow_symlinks=False))))
        wanted = found[: self._options.max_files - self._files]
        self.is_cut_short |= len(wanted) < len(found)
        self._files += len(wanted)
        return tuple(wanted)

    def _is_wanted(self, entry: os.DirEntry[str], rules: Rules) -> bool:
        return (
            is_source(entry.path, self._options.secret_files)
            and entry.is_file(follow_symlinks=False)
            and entry.path not in self._skipped
            and entry.stat(follow_symlinks=False).st_size <= MAX_FILE_BYTES
            and not rules.exclude(entry.path, is_directory=False)
        )


def is_walked(directory: str, rules: Rules) -> bool:
    """Whether a directory in another one, whose rules are given, is looked into."""
    name = os.path.basename(directory)  # noqa: PTH119  # once an entry, where a `Path` takes its time
    return not is_foreign(name) and can_be_sent(name) and not rules.exclude(directory, is_directory=True)


def rules_in(directory: str, roots: tuple[str, ...]) -> Rules | None:
    """The rules in a directory under a workspace folder; None if it is under none, or left out.

    Of folders inside each other the innermost one counts: its user has opened it, whatever is around it.
    """
    root = max((root for root in roots if Path(directory).is_relative_to(root)), key=len, default=None)
    if root is None:
        return None
    rules = Rules.around(Path(root)).within(Path(root))
    for step in reversed((Path(directory), *Path(directory).parents)):
        if step.is_relative_to(root) and step != Path(root):
            if not is_walked(str(step), rules):
                return None
            rules = rules.within(step)
    return rules


def is_listable(directory: str) -> bool:
    """Whether a directory is there and lets itself be listed."""
    try:
        with os.scandir(directory):
            return True
    except OSError:
        return False


def is_too_broad(root: str) -> bool:
    """Whether a workspace folder is a home directory or holds one, and is no project by itself."""
    # Unlike `Path.resolve` and `Path.home`, these take a link in a circle, and a user without a home.
    real, home = (Path(os.path.realpath(path)) for path in (root, os.path.expanduser("~")))  # noqa: PTH111
    return home.is_relative_to(real) and not any(os.path.lexists(real / mark) for mark in PROJECT_MARKS)


def _starts(roots: tuple[str, ...], near: str) -> Iterator[str]:
    for root in roots:
        if Path(near).is_relative_to(root):
            yield from (str(step) for step in (Path(near), *Path(near).parents) if step.is_relative_to(root))
    yield from roots
