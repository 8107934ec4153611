from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

import pytest

from benchmarks.cursors import Cursor, cursors
from benchmarks.frontend import ROWS, FrontEnd, by_language, worth
from benchmarks.languages import read_languages
from benchmarks.quality import main
from engine.client import Endpoint
from engine.protocol import StopSpec
from engine.training.corpus import SourceFile
from tests.umbrella_lsp.fakes import ScriptedStreams, events, piece, saying
from tests.umbrella_lsp.scripted_engine import running
from umbrella_lsp.fit.postprocess import Fitted

HELPER = SourceFile("p", "p/helper.py", "def double(value):\n    return 2 * value\n")
OTHERS = SourceFile("q", "q/helper.py", "def triple(value):\n    return 3 * value\n")
HEAD = "from p.helper import double\n" + "x = 0\n" * 5
PLACE = Cursor("between_text", "y = double(", ")\nz = 1\n", "4", path="p/a.py", head=HEAD, package="p")


def answers(engine: ScriptedStreams, place: Cursor = PLACE) -> dict[str, Fitted]:
    return {**asyncio.run(FrontEnd(engine, [HELPER, OTHERS]).answer(place))}


def test_every_row_has_a_rule_more_than_the_one_above():
    engine = saying("4)\n", "z = 1\nz = 1\n")
    found = answers(engine)
    assert list(found) == list(ROWS)
    stopped, bare, own, shared = (call.umbrella for call in engine.calls)
    assert [segment.kind for segment in bare.segments] == ["prefix", "suffix"]
    assert not any("def double" in segment.text for segment in own.segments)
    assert any("def double" in segment.text for segment in shared.segments)
    assert bare.stop == own.stop == shared.stop == StopSpec(max_lines=8)
    assert stopped.segments == shared.segments
    assert [found[row].text for row in ROWS[:3]] == ["4)\nz = 1\nz = 1\n"] * 3
    assert found["+ stop"].text == "4)"
    assert found["+ post-processing"] == found["+ silence"] == Fitted("4")


def test_nothing_is_shown_that_the_model_does_not_think_likely():
    engine = ScriptedStreams([[piece("4", tokens=((0, -20.0),)), *events()]])
    found = answers(engine)
    assert (found["+ post-processing"].text, found["+ silence"].text) == ("4", "")


def test_nothing_is_shown_amid_a_word():
    place = Cursor("line_end", "total = val", "ue + 1\n", "", path="p/a.py", package="p")
    found = answers(saying("id"), place)
    assert (found["+ stop"].text, found["+ silence"].text) == ("id", "")


def test_what_an_answer_takes_the_place_of_is_no_error_of_its():
    found = worth([PLACE], [Fitted("4)", replaces=1)])
    assert (found.exact_match, found.parse_success, found.characters_wrong) == (1, 1, 0)


def test_characters_are_right_up_to_the_first_line_that_is_wrong():
    block = Cursor("block", "def f():\n    ", "\n", "x = 1\n    return x")
    found = worth([block, block], [Fitted("x = 1\n    y = 2\n    return x"), Fitted("")])
    assert (found.characters_right, found.characters_wrong) == (2.5, 6.5)
    assert (found.first_line_match, found.shown_right, found.empty) == (0.5, 1.0, 0.5)


def test_each_language_has_a_table_and_several_have_one_together():
    go = Cursor("line_end", "x :=", "\n", " 1", language="go")
    rows = dict.fromkeys(ROWS, Fitted("4"))
    tables = by_language([PLACE, go, go], [rows, rows, rows])
    assert {name: table["prompts"] for name, table in tables.items()} == {"python": 1, "go": 2, "all": 3}
    assert list(tables["go"]) == ["prompts", *ROWS]
    assert list(by_language([PLACE], [rows])) == ["python"]


def test_comments_of_a_language_get_no_cursor():
    lines = "".join(f"# {n}, which is code in c\n// comment {n}\n * comment {n}\n" for n in range(40))
    in_c = cursors([SourceFile("p", "a.c", lines + "{\n    f(x, y);\n    g(1, 2);\n}\n", "c")], 3, seed=0)
    assert {place.before.strip()[:1] for place in in_c} <= {"", "#", "f", "g"}


def archive(folder: Path, name: str, files: dict[str, str]) -> dict[str, object]:
    """Write a source archive, and pin it."""
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as opened:
        for file, text in files.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size = len(text.encode())
            opened.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"package": name, "version": "1", "file": path.name, "sha256": digest, "languages": ["go"]}


def test_archives_are_read_in_the_languages_they_are_pinned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = tmp_path / "archives"
    kept.mkdir()
    code = {f"src/a.{suffix}": f"code in {suffix}\n" * 40 for suffix in ("go", "rs")}
    licence = {"LICENSE": "MIT License\n\nPermission is hereby granted, free of charge, to any person"}
    pins = [archive(kept, "free-1", code | licence), archive(kept, "unstated-1", {"b.go": "text\n" * 90})]
    (tmp_path / "pins.json").write_text(json.dumps(pins))
    monkeypatch.setattr("benchmarks.languages.PINS", tmp_path / "pins.json")
    for _ in range(2):
        corpus = read_languages(tmp_path)
        assert [(file.path, file.language) for file in corpus.files] == [("src/a.go", "go")]
        assert corpus.refused == {"unstated-1": ""}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--languages", "go"], "--languages are of the files"),
        (["--front-end", "--languages", "cobol"], "knows c, cpp, go"),
        (["--front-end", "--plot", "a.svg"], "draws no picture"),
    ],
)
def test_options_of_the_front_end_are_checked_first(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(["--work", "w", *options])
    assert problem in capsys.readouterr().err


def test_a_users_prompts_are_measured_behind_the_front_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prefix": "import os\nimport ", "suffix": "\n", "expected": "sys"}))
    monkeypatch.setenv("UMBRELLA_RUNTIME_DIR", "")  # so that it is put back
    with tempfile.TemporaryDirectory(prefix="umb-") as folder, running(Path(folder) / "run") as script:
        script.say("sys")
        endpoint = Endpoint(Path(folder) / "run" / "engine.sock")
        monkeypatch.setattr("benchmarks.frontend.ensure_engine", lambda config: endpoint)
        main(["--front-end", "--prompts", str(prompts)])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["languages"]["python"]["prompts"] == 1
    assert [figures["languages"]["python"][row]["exact_match"] for row in ROWS] == [1.0] * len(ROWS)
