"""A file of prompts, answered; also with the process killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.chat.cli import main
from engine.chat.prompts import open_repaired, read_answered, read_tasks
from engine.errors import RequestError
from tests.engine.fakes import DEADLINE_S, FakeBackend, Gate, RunningEngine, eventually, running_engine


def write(folder: Path, prompts: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(prompts))
    return path


def arguments(engine: RunningEngine, folder: Path, *more: str) -> list[str]:
    files = ["--prompts", str(folder / "prompts.json"), "--output", str(folder / "answers.jsonl")]
    return ["--url", f"unix://{engine.place.socket}", *files, *more]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_prompts_are_answered_with_what_each_cost(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    write(
        tmp_path,
        [
            "one",
            {"id": "b", "messages": chat, "max_tokens": 2},
            {"question_id": 7, "turns": ["two", "three"]},
        ],
    )
    with running_engine(tmp_path) as engine:
        assert main(arguments(engine, tmp_path, "--max-tokens", "5", "--system", "Be brief.")) == 0
    found = {row["id"]: row for row in rows(tmp_path)}
    assert {name: row["generated_tokens"] for name, row in found.items()} == {0: 5, "b": 2, 7: 10}
    assert found[0].keys() >= {"queue_ms", "first_token_ms", "total_ms", "tokens_per_s", "accepted_per_pass"}
    assert (len(found[0]["text"]), found[0]["finish_reason"]) == (5, "length")
    assert found[7]["texts"][1] == found[7]["text"]
    assert found[7]["reused_tokens"] > 0


def test_raw_prompts_are_gone_on_with_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, ["ab", "abc"])
    with running_engine(tmp_path) as engine:
        assert main(arguments(engine, tmp_path, "--raw", "--max-tokens", "2", "--concurrency", "2")) == 0
    assert {row["id"]: row["text"] for row in rows(tmp_path)} == {0: "de", 1: "ef"}


def test_a_run_goes_on_where_another_was_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [f"prompt {n}" for n in range(5)])
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        asked = arguments(engine, tmp_path, "--max-tokens", "1")
        process = subprocess.Popen([sys.executable, "-m", "engine.chat.cli", *asked])
        for _ in range(2):
            gate.step()
        eventually(lambda: (tmp_path / "answers.jsonl").exists() and len(rows(tmp_path)) == 2)
        process.send_signal(signal.SIGKILL)
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        with (tmp_path / "answers.jsonl").open("a") as file:
            file.write('{"id": 2, "hash": "cut o')
        gate.release()
        capfd.readouterr()
        assert main(asked) == 0
        assert "2 of 5 prompts are answered." in capfd.readouterr().err
    assert sorted(row["id"] for row in rows(tmp_path)) == [0, 1, 2, 3, 4]


def test_an_interrupted_run_leaves_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, ["one", "two"])
    gate = Gate()
    with running_engine(tmp_path, FakeBackend(in_layer=gate)) as engine:
        asked = arguments(engine, tmp_path, "--max-tokens", "1")
        process = subprocess.Popen([sys.executable, "-m", "engine.chat.cli", *asked])
        gate.step()
        eventually(lambda: (tmp_path / "answers.jsonl").exists() and len(rows(tmp_path)) == 1)
        gate.wait()
        gate.wait()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        eventually(lambda: engine.metric("umbrella_cancels_total") == 1)
        gate.release()
    assert [row["id"] for row in rows(tmp_path)] == [0]


def test_failures_and_changed_prompts_are_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [{"id": "a", "prompt": "one"}, {"id": "b", "prompt": "two", "temperature": -1}])
    with running_engine(tmp_path) as engine:
        asked = arguments(engine, tmp_path, "--max-tokens", "1")
        assert main(asked) == 1
        assert "temperature" in rows(tmp_path)[1]["error"]
        assert main(asked) == 1
        assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "b"]
        write(tmp_path, [{"id": "a", "prompt": "one, but another"}, {"id": "b", "prompt": "two"}])
        capsys.readouterr()
        assert main(asked) == 0
        assert "0 of 2 prompts are answered, 1 changed since and is asked again." in capsys.readouterr().err
        assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "b", "a", "b"]
        size = (tmp_path / "answers.jsonl").stat().st_size
        assert main(asked) == 0
        assert (tmp_path / "answers.jsonl").stat().st_size == size


def test_where_no_engine_answers_the_rest_is_left_for_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [f"prompt {n}" for n in range(9)])
    files = ["--prompts", str(tmp_path / "prompts.json"), "--output", str(tmp_path / "answers.jsonl")]
    assert main(["--url", "http://127.0.0.1:1", *files]) == 3
    assert "run this again" in capsys.readouterr().err
    assert [row["id"] for row in rows(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({}, "no list of prompts"),
        ([], "no list of prompts"),
        ([3], "prompt must be text"),
        ([{"id": 1}], "must have one of"),
        ([{"prompt": "a", "turns": ["b"]}], "must have one of"),
        ([{"turns": []}], "turns must be text"),
        ([{"messages": ["a"]}], "messages must be a list of objects"),
        ([{"prompt": "a", "id": True}], "its id must be"),
        ([{"prompt": "a", "id": 1}, "b"], "prompts 0 and 1 have one id, 1"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_before_anything_is_asked(
    tmp_path: Path, prompts: object, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        read_tasks(write(tmp_path, prompts), "", {}, raw=False)


def test_json_lines_and_options_of_a_prompt_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\N{LINE SEPARATOR}", "seed": 3, "category": "x"}\n\n"b"\n')
    first, second = read_tasks(path, "", {"seed": 1, "top_p": 0.5}, raw=False)
    assert (first.turns, dict(first.options)) == (("a\N{LINE SEPARATOR}",), {"seed": 3, "top_p": 0.5})
    assert dict(second.options) == {"seed": 1, "top_p": 0.5}


@pytest.mark.parametrize(
    "content",
    ["not JSON\n", "not JSON", "[]", '{"id": 1, "prompt": "a"}', '{"id": 1}\n', "{}\n", "3\n", "\n"],
)
def test_a_file_of_something_else_is_not_touched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "precious.txt"
    path.write_text(content)
    with pytest.raises(RequestError, match="something else than answers"):
        read_answered(path)


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(0, 37))
def test_whatever_is_cut_off_only_whole_lines_count(whole: int, cut: int) -> None:
    lines = [json.dumps({"id": n, "hash": "h", "text": "é"}, ensure_ascii=False) for n in range(4)]
    data = "".join(f"{line}\n" for line in lines[:whole]).encode() + lines[whole].encode()[:cut]
    path = Path(os.environ["HOME"]) / "answers.jsonl"
    path.write_bytes(data)
    answered = read_answered(path)
    assert sorted(answered.digests) == list(range(whole))
    os.close(open_repaired(path, answered))
    assert path.read_text() == "".join(f"{line}\n" for line in lines[:whole])
