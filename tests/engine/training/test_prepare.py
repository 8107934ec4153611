from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import engine.training.prepare as module
from engine.errors import TrainingError
from engine.training.prepare import fetch, read_corpus
from tests.engine.training.samples import python
from tests.engine.training.test_corpus import install, wheel


def pin(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"package": path.name.split("-")[0], "version": "1.0", "file": path.name, "sha256": digest}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip was asked for; it never gets any of it."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(module.subprocess, "run", run)
    return commands


def test_wheels_that_are_there_are_taken_without_asking_pip(tmp_path: Path, asked: list[list[str]]):
    path = wheel(tmp_path, "one", "MIT", {"one/a.py": python(1)})
    assert fetch([pin(path)], tmp_path) == [path]
    assert asked == []


def test_a_wheel_that_pip_cannot_get_is_named_with_where_to_put_it(tmp_path: Path, asked: list[list[str]]):
    missing = {"package": "two", "version": "1.0", "file": "two-1.0-py3-none-any.whl", "sha256": ""}
    with pytest.raises(TrainingError, match=r"two-1\.0-py3-none-any\.whl.*put that file into .*wheels"):
        fetch([missing], tmp_path / "wheels")
    assert asked[0][-1] == "two==1.0"


def test_a_wheel_of_another_hash_is_refused(tmp_path: Path):
    path = wheel(tmp_path, "one", "MIT", {"one/a.py": python(1)})
    with pytest.raises(TrainingError, match="not the file that was pinned"):
        fetch([pin(path) | {"sha256": "0" * 64}], tmp_path)


def test_the_installed_packages_can_be_learnt_from_but_the_held_out_ones_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[list[str]]
):
    for number, name in enumerate(("zoo", "umbrella-lsp", "Held_Out")):
        install(tmp_path / name, name, "MIT", {f"{name}/a.py": python(number)})
    (tmp_path / "wheels").mkdir()
    path = wheel(tmp_path / "wheels", "held-out", "MIT", {"held/b.py": python(9)})
    pins = {
        "train": [pin(path) | {"file": "not-there.whl"}],
        "held_out": [pin(path) | {"package": "held-out"}],
    }
    (tmp_path / "corpus.json").write_text(json.dumps(pins))
    monkeypatch.setattr(module, "CORPUS", tmp_path / "corpus.json")
    monkeypatch.setattr(module.Corpus, "add_stdlib", lambda self: None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path / name) for name in ("zoo", "umbrella-lsp", "Held_Out")])
        corpus, held_out = read_corpus(tmp_path, installed=True)
    assert [source.package for source in corpus.sources] == ["zoo"]
    assert [file.path for file in held_out.files] == ["held/b.py"]
    assert asked == []
