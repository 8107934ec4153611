from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import engine.cli as cli
import engine.training.draft as draft
from engine.training.command import INTERRUPTED, SIZES
from engine.training.shapes import DRAFT_SIZES

WORDS = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "ibex", "jay", "kite", "lynx")


def run(*arguments: str | Path) -> int:
    return cli.main(["train-draft", *map(str, arguments)])


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    for n in range(12):
        functions = [
            f"def {name}_of_{word}(self, {word}):\n    return self.{name}.get({word}, default={word!r})\n"
            for name in ("amount", "balance", "colour", "depth")
            for word in (f"{WORDS[n]}{WORDS[(n + i) % 12]}" for i in range(12))
        ]
        (folder / f"{WORDS[n]}.py").write_text("\n\n".join(functions))
    return folder


def test_the_sizes_offered_are_the_sizes_there_are():
    assert tuple(DRAFT_SIZES) == SIZES


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist"),
        ({}, "holds 0 characters"),
        ({"a.py": b"".join(b"x%d = f(%d)\n" % (i, i * i) for i in range(99))}, "teaches nothing"),
        ({"a.py": b"\0\1\2" * 9000}, "1 binary"),
    ],
)
def test_a_corpus_that_cannot_be_learnt_from_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, bytes] | None, expected: str
):
    folder = tmp_path / "corpus"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    assert run("--corpus", folder, "--out", tmp_path / "out", "--size", "5M") == cli.FAILED
    said = capsys.readouterr().err
    assert expected in said
    assert not (tmp_path / "out").exists()


def test_packages_that_training_needs_and_that_are_not_there_are_named(code: Path, tmp_path: Path):
    without = (
        "import sys; sys.modules['pytorch_optimizer'] = None; from engine.cli import main; sys.exit(main())"
    )
    options = ["train-draft", "--corpus", code, "--out", tmp_path / "out", "--size", "5M"]
    ended = subprocess.run(
        [sys.executable, "-c", without, *options], capture_output=True, text=True, check=False
    )
    assert ended.returncode == cli.FAILED
    assert "umbrella-lsp[train]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_number_that_trains_nothing_is_refused(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("--corpus", code, "--out", tmp_path, "--size", "5M", "--lessons", "0") == cli.FAILED
    assert "--lessons must be at least 1" in capsys.readouterr().err
    assert run("--corpus", code, "--out", tmp_path, "--size", "5M", "--seed", "-1") == cli.FAILED
    assert "--seed must be at least 0" in capsys.readouterr().err


def test_an_out_that_cannot_be_a_folder_is_said(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "out").write_text("a file")
    assert run("--corpus", code, "--out", tmp_path / "out", "--size", "5M") == cli.FAILED
    assert "choose another --out" in capsys.readouterr().err


def test_a_new_draft_and_a_continued_one_exclude_each_other(code: Path, tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        run("--corpus", code, "--out", tmp_path, "--size", "5M", "--continue", "bundled:draft")
    assert ended.value.code == cli.USAGE


def test_an_interrupt_is_no_traceback(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.training.draft.train_draft", interrupted)
    assert run("--corpus", code, "--out", tmp_path / "out", "--size", "5M") == INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_continues_the_bundled_draft_and_says_how_to_use_it(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(draft, "MEASURED_PROMPTS", 4)
    monkeypatch.setattr(draft, "HELD_OUT_LESSONS", 2)
    out = tmp_path / "out"
    options = ("--continue", "bundled:draft", "--tokens", "3000", "--lessons", "2", "--length", "256")
    assert run("--corpus", code, "--out", out, *options) == cli.DONE
    shown = capsys.readouterr()
    assert f"draft_model = '{out / 'model'}'" in shown.out
    assert "with the draft before" in shown.out
    assert "by file" in shown.err
    assert (out / "work" / "distillation" / "training.svg").exists()
