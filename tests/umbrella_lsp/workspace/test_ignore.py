"""What git and ``.umbrellaignore`` leave out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.umbrella_lsp.workspace.files import write
from umbrella_lsp.workspace.ignore import Rules


def is_left_out(root: Path, path: str) -> bool:
    """Whether a walk from `root` meets with `path`, a directory if it ends in a slash."""
    rules, here = Rules.around(root).within(root), root
    *folders, name = path.rstrip("/").split("/")
    for folder in folders:
        here /= folder
        if rules.exclude(str(here), is_directory=True):
            return True
        rules = rules.within(here)
    return rules.exclude(str(here / name), is_directory=path.endswith("/"))


@pytest.mark.parametrize(
    ("patterns", "out", "kept"),
    [
        (["*.log"], ["a.log", "x/a.log"], ["a.py"]),
        (["*.py", "!keep.py"], ["a.py"], ["keep.py", "x/keep.py"]),
        (["build/"], ["build/", "x/build/a.py"], ["build"]),
        (["/top.py", "x/y"], ["top.py", "x/y"], ["x/top.py", "z/x/y"]),
        # Only what is named is kept, wherever it is.
        (["*", "!*/", "!*.py"], ["a.txt", "x/a.txt"], ["x/", "x/a.py"]),
        (["/*", "!/src"], ["lib/a.py", "a.py"], ["src/a.py", "src/x/a.py"]),
        (["a/**", "!a/keep.py"], ["a/b.py", "a/x/keep.py"], ["a/keep.py", "a/"]),
        # One directory that is kept says nothing of others in it.
        (["build/", "!src/"], ["src/build/"], ["src/a.py"]),
        (["x/", "!x/keep.py"], ["x/keep.py"], []),
        (["# a.py", "", "\\#b.py", "a\\", "[", "last.py"], ["#b.py", "last.py"], ["a.py", "# a.py"]),
        (["**/gen/*.py"], ["gen/a.py", "x/y/gen/a.py"], ["gen/x/a.py"]),
    ],
)
def test_patterns_mean_what_they_mean_to_git(
    tmp_path: Path, patterns: list[str], out: list[str], kept: list[str]
) -> None:
    write(tmp_path / ".gitignore", "\r\n".join(patterns))
    assert [path for path in out if not is_left_out(tmp_path, path)] == []
    assert [path for path in kept if is_left_out(tmp_path, path)] == []


def test_what_stands_deeper_goes_over_what_stands_above(tmp_path: Path) -> None:
    write(tmp_path / ".git" / "info" / "exclude", "c.py\n")
    write(tmp_path / ".gitignore", "a.py\nb.py\n")
    write(tmp_path / "x" / ".gitignore", "!a.py\n/d.py\n")
    assert [
        p for p in ("a.py", "b.py", "c.py", "x/b.py", "x/c.py", "x/d.py") if not is_left_out(tmp_path, p)
    ] == []
    assert [p for p in ("d.py", "x/a.py", "x/y/a.py", "x/y/d.py") if is_left_out(tmp_path, p)] == []


def test_our_own_file_goes_over_gits_of_the_same_directory(tmp_path: Path) -> None:
    write(tmp_path / ".gitignore", "a.py\n")
    write(tmp_path / ".umbrellaignore", "!a.py\nb.py\n")
    assert not is_left_out(tmp_path, "a.py")
    assert is_left_out(tmp_path, "b.py")


def test_a_folder_inside_a_repository_obeys_what_stands_above_it(tmp_path: Path) -> None:
    write(tmp_path / ".gitignore", "outside.py\n")
    write(tmp_path / "repo" / ".git" / "HEAD", "")
    write(tmp_path / "repo" / ".gitignore", "/lib/a.py\n")
    (tmp_path / "repo" / "lib").mkdir()
    assert is_left_out(tmp_path / "repo" / "lib", "a.py")
    assert not is_left_out(tmp_path / "repo" / "lib", "outside.py")
