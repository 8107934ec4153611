"""Which files of a workspace are found, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.umbrella_lsp.workspace.files import write
from umbrella_lsp.workspace.messages import Configure
from umbrella_lsp.workspace.walk import Walk, is_too_broad


def a_walk(*roots: Path, near: Path | str = "", max_files: int = 100, skipped: tuple[str, ...] = ()) -> Walk:
    names = tuple(map(str, roots))
    return Walk(Configure(names, str(near), max_files, ("private*",), "", {}, skipped), names)


def found_by(walk: Walk) -> list[str]:
    files = list[str]()
    while (directory := walk.next()) is not None:
        files += [found.path for found in walk.list(directory)]
    return files


def names(root: Path, files: list[str]) -> list[str]:
    return [Path(file).relative_to(root).as_posix() for file in files]


def test_environments_caches_hidden_ignored_and_secret_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "env-by-content" / "pyvenv.cfg", "")
    write(tmp_path / "target" / "CACHEDIR.TAG", "")
    folders = (".git", ".venv", "venv", "node_modules", "__pycache__", "env-by-content", "target", "out")
    for folder in (*folders, "kept/deep"):
        write(tmp_path / folder / "a.py", "x = 1\n")
    write(tmp_path / ".gitignore", "out/\n")
    for name in ("secrets.py", "private_key.py", "notes.txt", "large.py"):
        write(tmp_path / name, "x = 1\n" * (50_000 if name == "large.py" else 1))
    assert names(tmp_path, found_by(a_walk(tmp_path))) == ["kept/deep/a.py"]


def test_links_circles_and_pipes_are_not_followed_but_for_a_folder_that_is_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real" / "kept" / "a.py", "x = 1\n")
    (tmp_path / "real" / "kept" / "loop").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "kept" / "b.py").symlink_to("a.py")
    os.mkfifo(tmp_path / "real" / "kept" / "c.py")
    (tmp_path / "root").symlink_to("real", target_is_directory=True)
    assert names(tmp_path, found_by(a_walk(tmp_path / "root"))) == ["root/kept/a.py"]


def test_what_is_near_comes_first_then_what_is_around_it(tmp_path: Path) -> None:
    for file in ("a.py", "lib/b.py", "app/c.py", "app/ui/d.py", "app/ui/parts/e.py", "app/core/f.py"):
        write(tmp_path / file, "x = 1\n")
    order = ["app/ui/d.py", "app/ui/parts/e.py", "app/c.py", "app/core/f.py", "a.py", "lib/b.py"]
    assert names(tmp_path, found_by(a_walk(tmp_path, near=tmp_path / "app" / "ui"))) == order
    breadth_first = ["a.py", "app/c.py", "lib/b.py", "app/core/f.py", "app/ui/d.py", "app/ui/parts/e.py"]
    assert names(tmp_path, found_by(a_walk(tmp_path))) == breadth_first


def test_what_is_near_but_ignored_stays_so(tmp_path: Path) -> None:
    write(tmp_path / ".gitignore", "out/\n")
    write(tmp_path / "out" / "deep" / "a.py", "x = 1\n")
    assert found_by(a_walk(tmp_path, near=tmp_path / "out" / "deep")) == []
    # Unless that is a folder of its own.
    assert names(tmp_path, found_by(a_walk(tmp_path, tmp_path / "out"))) == ["out/deep/a.py"]


def test_several_folders_are_gone_through_once_each_even_inside_each_other(tmp_path: Path) -> None:
    for file in ("one/a.py", "two/b.py", "two/inner/c.py"):
        write(tmp_path / file, "x = 1\n")
    walk = a_walk(tmp_path / "one", tmp_path / "two" / "inner", tmp_path / "two", tmp_path / "gone")
    assert names(tmp_path, found_by(walk)) == ["one/a.py", "two/inner/c.py", "two/b.py"]


def test_a_directory_that_vanishes_or_is_to_be_skipped_costs_nothing_else(tmp_path: Path) -> None:
    for file in ("a/a.py", "b/b.py", "c/c.py", "c/d.py"):
        write(tmp_path / file, "x = 1\n")
    walk = a_walk(tmp_path, skipped=(str(tmp_path / "b"), str(tmp_path / "c" / "d.py")))
    assert walk.next() == str(tmp_path)
    walk.list(str(tmp_path))
    (tmp_path / "a" / "a.py").unlink()
    (tmp_path / "a").rmdir()
    assert names(tmp_path, found_by(walk)) == ["c/c.py"]


def test_the_nearest_files_are_taken_where_there_are_too_many(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"{number}.py", "x = 1\n")
        write(tmp_path / "deep" / f"{number}.py", "x = 1\n")
    walk = a_walk(tmp_path, max_files=7)
    assert names(tmp_path, found_by(walk))[4:] == ["4.py", "deep/0.py", "deep/1.py"]
    assert walk.is_cut_short
    whole = a_walk(tmp_path, max_files=11)
    assert len(found_by(whole)) == 10
    assert not whole.is_cut_short


@pytest.mark.parametrize("limit", ["MAX_DIRECTORIES", "MAX_ENTRIES", "MAX_ENTRIES_IN_DIRECTORY"])
def test_a_walk_ends_however_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    for number in range(20):
        write(tmp_path / f"{number}" / "a.py", "x = 1\n")
    monkeypatch.setattr(f"umbrella_lsp.workspace.walk.{limit}", 5)
    walk = a_walk(tmp_path)
    assert len(found_by(walk)) <= 6
    assert walk.is_cut_short


def test_a_home_directory_is_no_workspace_unless_it_is_a_project(home: Path) -> None:
    assert is_too_broad(str(home))
    assert is_too_broad(str(home.parent))
    assert is_too_broad("/")
    assert not is_too_broad(str(home / "project"))
    (home / "circle").symlink_to("circle")
    assert not is_too_broad(str(home / "circle"))
    assert found_by(a_walk(home / "circle")) == []
    try:
        (home / ".git").mkdir()
        assert not is_too_broad(str(home))
    finally:
        (home / ".git").rmdir()
        (home / "circle").unlink()
