from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.cursors import PREFIX_LINES, SUFFIX_LINES
from benchmarks.history import (
    History,
    HistoryError,
    NewCode,
    cursors_in,
    known_windows,
    new_code,
    new_runs,
    texts_under,
)
from engine.training.corpus import SourceFile
from tests.benchmarks.repositories import commit, git
from tests.engine.training.samples import write

OLD = "import os\n\n\ndef first(a):\n    b = a + 1\n    c = b * 2\n    return c\n"


def found(text: str) -> list[str]:
    """The new runs of `text`, where `OLD` was there before."""
    lines = text.split("\n")
    return ["\n".join(lines[run.start : run.stop]) for run in new_runs(text, known_windows([OLD]))]


def test_what_was_there_is_not_new():
    assert found(OLD) == []


def test_lines_that_were_added_are_new():
    added = "def second(x):\n    y = x - 1\n    return y"
    assert found(f"{OLD}\n\n{added}\n") == [added]


def test_what_was_moved_or_indented_differently_is_not_new():
    method = "\n".join("    " + line for line in OLD.split("\n")[3:])
    wrapper = "class Moved:\n    one = 1\n    two = 2"
    assert found(f"{wrapper}\n\n{method}") == [wrapper]


def test_blank_lines_between_do_not_make_known_code_new():
    assert found(OLD.replace("c = b * 2\n", "c = b * 2\n\n")) == []


def test_a_single_changed_line_is_too_little():
    assert found(OLD.replace("b * 2", "b * 3")) == []


def test_a_blank_line_ends_a_run():
    assert found("x = 1\ny = 2\nz = 3\n\nu = 4\nv = 5\n\nx = 6\ny = 7\nz = 8") == [
        "x = 1\ny = 2\nz = 3",
        "x = 6\ny = 7\nz = 8",
    ]


def test_known_lines_in_another_company_are_new():
    assert found("    return c\n    c = b * 2\n    b = a + 1") != []


def test_a_cursor_is_within_the_run_and_hides_its_rest():
    lines = [f"    line_{number} = {number}" for number in range(200)]
    code = NewCode(SourceFile("p", "p/a.py", "\n".join(lines)), range(100, 104))
    run = "\n".join(lines[100:104])
    for seed in range(20):
        cursor = code.cursor(random.Random(seed))
        whole = cursor.prefix + cursor.expected
        assert run.endswith(cursor.expected)
        assert cursor.expected
        assert whole.endswith(run)
        assert cursor.before.startswith("    ")
        assert cursor.suffix == "\n" + "\n".join(lines[104 : 104 + SUFFIX_LINES])
        assert cursor.prefix.count("\n") == PREFIX_LINES
        assert (cursor.path, cursor.language) == ("p/a.py", "python")


def test_each_run_has_one_cursor_at_most_and_the_seed_decides_which():
    text = "\n\n".join(f"a{i} = 1\nb{i} = 2\nc{i} = 3" for i in range(9))
    code = new_code([SourceFile("p", "a.py", text)], set())
    assert len(code) == 9
    assert len(cursors_in(code, 100, seed=0)) == 9
    assert cursors_in(code, 4, seed=1) == cursors_in(code, 4, seed=1) != cursors_in(code, 4, seed=2)


def test_both_ends_of_a_history_are_exported_and_the_checkout_is_left_alone(tmp_path: Path):
    repository = write(tmp_path / "shop", {"a.py": OLD, "logo.png": "no source"})
    first = commit(repository)
    write(repository, {"a.py": f"{OLD}\nd = 4\ne = 5\nf = 6\n", "sub/b.py": OLD})
    second = commit(repository)
    write(repository, {"a.py": "not committed"})
    history = History.open(repository, "HEAD~1")
    assert (history.name, history.before, history.after) == ("shop", first, second)
    old, new = (history.export(end, tmp_path / "work") for end in (first, second))
    assert old.name == new.name == "shop"
    assert list(texts_under(old)) == [OLD]
    assert sorted(path.name for path in new.rglob("*.py")) == ["a.py", "b.py"]
    assert history.export(first, tmp_path / "work") == old
    assert (repository / "a.py").read_text() == "not committed"
    files = [SourceFile("shop", path.name, path.read_text()) for path in sorted(new.rglob("*.py"))]
    assert [code.run for code in new_code(files, known_windows(texts_under(old)))] == [range(8, 11)]


def test_a_folder_without_a_repository_is_refused(tmp_path: Path):
    with pytest.raises(HistoryError, match="has to be a git repository"):
        History.open(tmp_path, "HEAD")


def test_revisions_that_are_no_stretch_of_history_are_refused(tmp_path: Path):
    write(tmp_path, {"a.txt": "no source"})
    first = commit(tmp_path)
    with pytest.raises(HistoryError, match="no commit 'v1'"):
        History.open(tmp_path, "v1")
    with pytest.raises(HistoryError, match="HEAD is HEAD: there is nothing newer"):
        History.open(tmp_path, "HEAD")
    git(tmp_path, "checkout", "-q", "--orphan", "other")
    write(tmp_path, {"a.txt": "still none"})
    commit(tmp_path)
    git(tmp_path, "checkout", "-q", first)
    with pytest.raises(HistoryError, match="no ancestor of HEAD"):
        History.open(tmp_path, "other")


def test_a_commit_without_source_is_refused(tmp_path: Path):
    write(tmp_path, {"a.txt": "no source"})
    first = commit(tmp_path)
    with pytest.raises(HistoryError, match="no source code"):
        History(tmp_path, first, first).export(first, tmp_path / "work")
