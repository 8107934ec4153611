"""What a git repository held at a revision, and which of its code is newer than that.

Knows of git, of lines and of cursors; of no model. The user's own checkout is neither touched nor read:
both ends of the history are written out to folders of the caller's.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.cursors import PREFIX_LINES, SUFFIX_LINES, Cursor
from engine.training.corpus import SourceFile
from engine.training.folders import language_of

WINDOW = 3
"""Lines that have to stand together in the older tree for each of them to count as known."""
LEAST_LINES = 3
"""Of a run of new code."""

Window = tuple[str, ...]


class HistoryError(ValueError):
    """A repository or a revision that cannot be measured on: says what to name instead."""


@dataclass(frozen=True, slots=True)
class History:
    """Two commits of one repository, the older an ancestor of the other."""

    folder: Path
    before: str
    after: str
    """Full hashes."""

    @staticmethod
    def open(folder: Path, since: str) -> History:
        """From the revision `since` to HEAD. Raises HistoryError if that is no stretch of history."""
        _said(folder, "rev-parse", "--git-dir")
        before, after = _commit(folder, since), _commit(folder, "HEAD")
        if before == after:
            raise HistoryError(f"{since} is HEAD: there is nothing newer. Name an older revision.")
        if _git(folder, "merge-base", "--is-ancestor", before, after).returncode:
            raise HistoryError(f"{since} is no ancestor of HEAD; name a revision that HEAD was made from")
        return History(folder, before, after)

    @property
    def name(self) -> str:
        return self.folder.resolve().name.removesuffix(".git")

    def export(self, commit: str, work: Path) -> Path:
        """The source files of `commit`, in a folder of the repository's name below `work`; written once.

        What the repository exempts from archives (``export-ignore``) is not there. Raises HistoryError if
        there is no source.
        """
        folder = work / commit[:12] / self.name
        if not folder.exists():
            listed = os.fsdecode(_said(self.folder, "ls-tree", "-r", "-z", "--name-only", commit))
            paths = [Path(name) for name in listed.split("\0")]
            # Only source is asked for: the rest may be large, or left out of a partial clone.
            patterns = sorted({f"*{path.suffix}" for path in paths if language_of(path)})
            if not patterns:
                raise HistoryError(f"{self.folder} holds no source code at {commit[:12]}; name other commits")
            archive = _said(self.folder, "archive", "--format=tar", commit, "--", *patterns)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(dir=folder.parent) as temporary,
                tarfile.open(fileobj=io.BytesIO(archive)) as tar,
            ):
                tree = Path(temporary) / folder.name
                tar.extractall(tree, [member for member in tar if member.isreg()], filter="data")
                tree.replace(folder)
        return folder


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git")
    if git is None:
        raise HistoryError("git is not installed, and a repository's history cannot be read without it")
    # Variables of a git that runs us would point at its own repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        [git, "-C", str(folder), *arguments], capture_output=True, check=False, env=environment
    )


def _said(folder: Path, *arguments: str) -> bytes:
    """What git prints. Raises HistoryError with its own words if it fails."""
    asked = _git(folder, *arguments)
    if asked.returncode:
        why = asked.stderr.decode(errors="replace").strip()
        raise HistoryError(f"git {arguments[0]} fails in {folder}, which has to be a git repository: {why}")
    return asked.stdout


def _commit(folder: Path, revision: str) -> str:
    asked = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if asked.returncode:
        raise HistoryError(f"{folder} has no commit {revision!r}; name a commit, a tag or a branch it has")
    return asked.stdout.decode().strip()


def texts_under(folder: Path) -> Iterator[str]:
    """Every file below `folder`, read as text whatever it is."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.read_text("utf-8", "replace")


def _code(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, by their numbers; without indentation, which a moved line changes."""
    return [(number, line.strip()) for number, line in enumerate(text.split("\n")) if line.strip()]


def _windows(lines: Sequence[tuple[int, str]]) -> list[Window]:
    return [tuple(line for _, line in lines[i : i + WINDOW]) for i in range(len(lines) - WINDOW + 1)]


def known_windows(texts: Iterable[str]) -> set[Window]:
    """Every `WINDOW` lines that follow one another in `texts`, blank ones passed over."""
    return {window for text in texts for window in _windows(_code(text))}


def new_runs(text: str, known: Set[Window]) -> list[range]:
    """Where `text` has at least `LEAST_LINES` lines in a row that are new, as ranges of line numbers from 0.

    A line is new unless it stands in a window that is `known`, so that code which was only moved, copied or
    indented differently is not. A blank line ends a run.
    """
    lines = _code(text)
    old = {i + k for i, window in enumerate(_windows(lines)) if window in known for k in range(WINDOW)}
    new = [number for i, (number, _) in enumerate(lines) if i not in old]
    return [run for run in _consecutive(new) if len(run) >= LEAST_LINES]


def _consecutive(numbers: Sequence[int]) -> Iterator[range]:
    """Ascending `numbers` as ranges."""
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        yield range(members[0], members[-1] + 1)


@dataclass(frozen=True, slots=True)
class NewCode:
    """A run of new lines in a file."""

    file: SourceFile
    run: range

    def cursor(self, rng: random.Random) -> Cursor:
        """A cursor at a random place in the run. The run's rest is expected, so the suffix is without it."""
        lines = self.file.text.split("\n")
        at = rng.choice(self.run)
        column = rng.randrange(len(lines[at]) - len(lines[at].lstrip()), len(lines[at].rstrip()))
        shown = lines[max(0, at - PREFIX_LINES) : at]
        return Cursor(
            "block",
            prefix="\n".join([*shown, lines[at][:column]]),
            suffix="\n".join(["", *lines[self.run.stop : self.run.stop + SUFFIX_LINES]]),
            expected="\n".join(lines[at : self.run.stop])[column:],
            path=self.file.path,
            language=self.file.language,
        )


def new_code(files: Sequence[SourceFile], known: Set[Window]) -> list[NewCode]:
    """All runs of new lines in `files`, in their order."""
    return [NewCode(file, run) for file in files for run in new_runs(file.text, known)]


def cursors_in(code: Sequence[NewCode], count: int, seed: int) -> list[Cursor]:
    """A cursor in each of at most `count` of the runs, drawn at random, no run twice."""
    rng = random.Random(seed)
    return [run.cursor(rng) for run in rng.sample(code, k=min(count, len(code)))]
