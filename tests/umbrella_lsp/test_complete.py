"""``umbrella-complete``: what it prints and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.umbrella_lsp.scripted_engine import Script, running
from umbrella_lsp.complete import MAX_FILE_BYTES, Place, main, parse_place, project_of
from umbrella_lsp.syntax.client import SyntaxClient
from umbrella_lsp.workspace.client import Workspace


@pytest.fixture
def engine(engine_and_processes: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    """An engine, and none of the processes that know syntax and workspace, as to start them takes time."""

    async def nothing(*_arguments: object, **_options: object) -> None:
        return None

    monkeypatch.setattr(SyntaxClient, "at", nothing)
    monkeypatch.setattr(SyntaxClient, "inserted", nothing)
    monkeypatch.setattr(Workspace, "configure", lambda *_arguments, **_options: None)
    return engine_and_processes


@pytest.fixture
def engine_and_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    with tempfile.TemporaryDirectory(prefix="umb-") as folder, running(Path(folder) / "run") as script:
        monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(Path(folder) / "run"))
        yield script


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_text_to_insert_is_all_that_is_printed(
    engine: Script, work: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    engine.say("\n    return 'é'", "\n")
    (work / "a.py").write_bytes(b"def f():\r\n")
    assert main(["a.py:1"]) == 0
    out, err = capsysbinary.readouterr()
    assert (out, err) == ("\r\n    return 'é'\n".encode(), b"")
    assert engine.asked.get_nowait()["umbrella"]["path"] == "a.py"


def test_columns_count_code_points_from_one(
    engine: Script, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.say("name")
    (work / "a.py").write_text("x = '😋' + \ny = 2\n", "utf-8")
    assert main(["a.py:1:11", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    at = {"line": 0, "character": 10}
    assert answer["items"] == [{"insertText": "name", "range": {"start": at, "end": at}}]
    assert engine.asked.get_nowait()["umbrella"]["segments"][0]["text"] == "x = '😋' + "


def test_json_tells_why_it_ended_and_what_it_cost(
    engine: Script, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.say("name")
    (work / "a.py").write_text("x = ")
    assert main(["a.py:1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["text", "items", "stop", "timings", "tokens"]
    assert (answer["text"], answer["stop"]) == ("name", "end")
    assert list(answer["timings"]) == ["context_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms"]
    assert answer["tokens"] == {
        "prompt": 50,
        "reused": 40,
        "generated": 1,
        "drafted": 7,
        "accepted": 5,
        "target_passes": 3,
    }


def test_definitions_of_the_projects_other_files_are_shown_but_never_its_secrets(
    engine_and_processes: Script, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_and_processes
    monkeypatch.setattr("umbrella_lsp.complete.READING_S", 60.0)  # It returns as soon as all has been read.
    monkeypatch.setattr("umbrella_lsp.complete.PARSING_S", 60.0)
    engine.say("1)")
    (work / ".git").mkdir()
    (work / "shop").mkdir()
    (work / "shelf.py").write_text("def fill(books):\n    return books\n")
    (work / "secrets.py").write_text("def token(): return 'hunter2'\n")
    (work / "shop" / "a.py").write_text("from shelf import fill\nfill(token(\n")
    assert main(["shop/a.py:2"]) == 0
    segments = engine.asked.get_nowait()["umbrella"]["segments"]
    assert [(s["kind"], s["path"]) for s in segments[2:]] == [("definition", "shelf.py")]
    assert segments[0]["path"] == "shop/a.py"
    assert "hunter2" not in str(segments)


def test_a_workspace_that_takes_long_to_read_is_not_waited_for(
    engine: Script, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_workspace: Workspace) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Workspace, "settled", never)
    engine.say("name")
    (work / "a.py").write_text("x = ")
    assert main(["a.py:1"]) == 0


def test_the_project_is_the_nearest_directory_with_a_mark_of_one(work: Path) -> None:
    (work / "pyproject.toml").touch()
    (work / "src" / "deep").mkdir(parents=True)
    assert project_of(work / "src" / "deep") == work
    (work / "src" / ".git").touch()  # As in a worktree.
    assert project_of(work / "src" / "deep") == work / "src"


def test_an_explanation_tells_all_that_led_to_the_answer(
    engine: Script, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.say("name")
    (work / "a.py").write_text("x = ")
    assert main(["a.py:1", "--explain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["explain"]
    assert told["decision"]["reason"] == "suggested"
    assert [s["kind"] for s in told["segments"]] == ["prefix", "suffix"]
    assert told["tokens"]["recomputed"] == 10
    assert main(["a.py:1", "--explain"]) == 0
    assert capsys.readouterr().out.startswith("Suggested: ")


def test_silence_is_explained_too(engine: Script, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / ".env").write_text("KEY=")
    assert main([".env:1", "--explain"]) == 1
    assert capsys.readouterr().out.startswith("Silent: the file looks like one of secrets")


def test_no_suggestion_prints_nothing_and_ends_with_one(
    engine: Script, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.say("\n")
    (work / "a.py").write_text("x = 1\n")
    assert main(["a.py:1"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert main(["a.py:1", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["items"]) == ("", [])


def test_a_file_of_secrets_is_not_shown_to_the_model(
    engine: Script, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / ".env").write_text("KEY=")
    (work / "a.py").symlink_to(".env")
    (work / "key.txt").write_text("KEY=")
    (work / "server.pem").symlink_to("key.txt")
    for name in (".env", "a.py", "server.pem"):
        assert main([f"{name}:1"]) == 1
        assert "secrets" in capsys.readouterr().err
    assert engine.asked.empty()


def test_plain_decoding_can_be_asked_for_and_all_runs_share_a_slot(engine: Script, work: Path) -> None:
    engine.say("name")
    for name in ("a.py", "b.py"):
        (work / name).write_text("x = ")
        main([f"{name}:1", "--no-speculation"])
    first, second = (engine.asked.get_nowait()["umbrella"] for _ in range(2))
    assert first["speculative"] is False
    assert first["session"] == second["session"]


def test_a_byte_order_mark_is_no_column(engine: Script, work: Path) -> None:
    engine.say("name")
    (work / "a.py").write_bytes(b"\xef\xbb\xbfx = ")
    assert main(["a.py:1:5"]) == 0
    assert engine.asked.get_nowait()["umbrella"]["segments"][0]["text"] == "x = "


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (b"", "a.py:1", "a.py is empty, so there is nothing to continue; write a first line."),
        (b"x\0y", "a.py:1", "a.py is a binary file; name a text file."),
        (b"x = '\xe9'", "a.py:1", "a.py is not UTF-8 from byte 5 on; save it as UTF-8."),
        (b"x\ny\n", "a.py:4", "a.py has lines 1 to 3, so there is no line 4."),
        (b"x\ny\n", "a.py:0", "a.py has lines 1 to 3, so there is no line 0."),
        (b"ab\r\nc", "a.py:1:4", "Line 1 of a.py has columns 1 to 3, so there is no column 4."),
        (b"ab\r\nc", "a.py:1:0", "Line 1 of a.py has columns 1 to 3, so there is no column 0."),
        (b"x", "b.py:1", "There is no file b.py; check its name."),
        (b"x", ".:1", ". is a directory; name a file in it."),
        (b"x", "a.py", "a.py names no line; write FILE:LINE or FILE:LINE:COLUMN, counted from 1."),
        (b"x", "a.py:one", "a.py:one names no line; write FILE:LINE or FILE:LINE:COLUMN, counted from 1."),
    ],
)
def test_a_place_that_cannot_be_completed_is_explained_in_one_sentence(
    work: Path, capsys: pytest.CaptureFixture[str], content: bytes, place: str, said: str
) -> None:
    (work / "a.py").write_bytes(content)
    assert main([place]) == 2
    assert capsys.readouterr() == ("", f"umbrella-complete: {said}\n")


def test_a_file_of_fifty_megabytes_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (work / "a.py").open("wb") as file:
        file.truncate(50_000_000)
    assert main(["a.py:1"]) == 2
    assert f"has more than {MAX_FILE_BYTES // 1_000_000} MB; name a" in capsys.readouterr().err


def test_devices_and_pipes_are_refused_without_being_opened(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(work / "pipe")
    for name in ("pipe", "/dev/zero"):
        assert main([f"{name}:1"]) == 2
        said = f"umbrella-complete: {name} is a device or a pipe; name a text file.\n"
        assert capsys.readouterr() == ("", said)


def test_a_name_that_cannot_be_looked_up_is_explained(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([f"{'a' * 300}:1"]) == 2
    assert "cannot be read (File name too long)" in capsys.readouterr().err

    def refuse(*_arguments: object, **_options: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        for module in (os, Path):
            patch.setattr(module, "stat", refuse)
        assert main(["a.py:1"]) == 2
    assert "a.py cannot be read (Permission denied)" in capsys.readouterr().err


def test_numbers_longer_than_any_file_name_no_place(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"a.py:{'9' * 5000}"]) == 2
    assert "names no line" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_explained(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not stop a superuser, as whom tests run in containers.
    def refuse(_file: Path, _mode: str) -> object:
        raise PermissionError(13, "Permission denied")

    (work / "a.py").write_text("x = ")
    monkeypatch.setattr(Path, "open", refuse)
    assert main(["a.py:1"]) == 2
    assert "a.py cannot be read (Permission denied); check its permissions." in capsys.readouterr().err


def test_without_an_engine_it_ends_with_three(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "a.py").write_text("x = ")
    (work / "run").write_text("a file where a folder should be")
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", str(work / "run"))
    assert main(["a.py:1"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_configuration_that_is_not_there_is_bad_usage(
    work: Path, capsys: pytest.CaptureFixture[str], engine: Script
) -> None:
    (work / "a.py").write_text("x = ")
    assert main(["a.py:1", "--config", "none.toml"]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_an_engine_with_another_configuration_is_used_and_said_so_once(
    work: Path, capsys: pytest.CaptureFixture[str], engine: Script
) -> None:
    # Asked twice, as the first answer breaks off before any text: the engine is looked for twice too.
    engine.break_off()
    engine.say("name")
    (work / "a.py").write_text("x = ")
    (work / "other.toml").write_text("")
    assert main(["a.py:1", "--config", "other.toml"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("name\n", 1)
    assert "another configuration than other.toml" in err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a.py:3", Place(Path("a.py"), 3)),
        ("a.py:3:5", Place(Path("a.py"), 3, 5)),
        ("odd:3:5", Place(Path("odd:3"), 5)),
        ("odd:3:5:7", Place(Path("odd:3"), 5, 7)),
        ("b:c.py:3", Place(Path("b:c.py"), 3)),
        ("gone:4:2", Place(Path("gone"), 4, 2)),
    ],
)
def test_file_names_may_have_colons(work: Path, text: str, place: Place) -> None:
    for name in ("a.py", "odd:3", "b:c.py"):
        (work / name).write_text("x")
    assert parse_place(text) == place
