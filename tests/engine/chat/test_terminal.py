"""Talking line by line; a real terminal is in tests/e2e/test_chat.py."""

from __future__ import annotations

import io
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from engine.chat.cli import _loaded, main
from engine.chat.conversation import Wishes
from engine.chat.terminal import PlainScreen, Talk
from engine.client import Answer, Endpoint
from engine.errors import ContextExceeded, EngineUnavailable
from engine.protocol import Health
from tests.engine.fakes import FakeBackend, eventually, running_engine


class Parrot:
    """Says what it was asked, and remembers what it was told."""

    def __init__(self, room: int = 100) -> None:
        self.told: list[list[str]] = []
        self.bodies: list[dict[str, Any]] = []
        self._room = room

    def chat(self, messages: list[dict[str, str]], **body: Any) -> Generator[Answer]:
        texts = [message["content"] for message in messages]
        if len(texts) > self._room:
            raise ContextExceeded("The chat is too long.", "messages")
        if texts[-1] == "fail":
            raise EngineUnavailable("The device gave out.")
        self.told.append(texts)
        self.bodies.append(body)
        yield Answer("\x1b[31m" + texts[-1], None, (), None, {})
        if texts[-1] == "stop":
            raise KeyboardInterrupt
        yield Answer("", "length" if texts[-1] == "long" else "stop", (), None, {})


class PatientScreen(PlainScreen):
    is_patient = True


def talk(
    lines: str, parrot: Parrot, max_turns: int | None = None, kind: type[PlainScreen] = PlainScreen
) -> tuple[bool, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    screen = kind(io.StringIO(lines), out, errors)
    is_answered = Talk(cast("Any", parrot), screen, "Be brief.", Wishes(temperature=0.5), max_turns).run()
    return is_answered, out.getvalue(), errors.getvalue()


def test_every_line_is_answered_with_all_that_was_said_before() -> None:
    parrot = Parrot()
    assert talk("one\n\n  two\n/usr/bin is what?\n", parrot) == (True, "one\ntwo\n/usr/bin is what?\n", "")
    assert parrot.told[1] == ["Be brief.", "one", "\x1b[31mone", "two"]
    assert parrot.bodies[0] == {
        "stream": True,
        "temperature": 0.5,
        "umbrella": {"session": parrot.bodies[1]["umbrella"]["session"], "priority": "chat"},
    }


def test_reset_begins_anew_in_another_session() -> None:
    parrot = Parrot()
    talk("one\n/reset\ntwo\n", parrot)
    assert parrot.told[1] == ["Be brief.", "two"]
    assert parrot.bodies[0]["umbrella"] != parrot.bodies[1]["umbrella"]


def test_quit_leaves_and_what_is_no_command_is_said_so() -> None:
    parrot = Parrot()
    _, out, said = talk("/nonsense\n/help\n/stats\n/quit\none\n", parrot)
    assert out == ""
    assert "There is no command /nonsense" in said
    assert "/save FILE" in said
    assert "Nothing has been answered yet" in said


def test_ctrl_c_stops_an_answer_which_the_model_is_told_as_far_as_it_came() -> None:
    parrot = Parrot()
    is_answered, out, said = talk("stop\nnext\n", parrot, kind=PatientScreen)
    assert is_answered
    assert out == "stop\nnext\n"
    assert said == "umbrella-chat: Stopped.\n"
    assert parrot.told[1] == ["Be brief.", "stop", "\x1b[31mstop", "next"]


def test_ctrl_c_ends_a_program_that_reads_from_a_pipe() -> None:
    with pytest.raises(KeyboardInterrupt):
        talk("stop\nnext\n", Parrot())


def test_stats_speak_of_the_last_answer_and_of_all() -> None:
    _, _, said = talk("one\ntwo\n/stats\n", Parrot(), max_turns=1)
    assert "Last answer: 0 tokens, first after 0.0" in said
    assert "Turns: 2, 1 of them told to the model." in said


def test_the_older_half_goes_where_the_context_is_full() -> None:
    parrot = Parrot(room=6)
    is_answered, out, said = talk("one\ntwo\nthree\nfour\n", parrot)
    assert is_answered
    assert out == "one\ntwo\nthree\nfour\n"
    assert parrot.told[-1] == ["Be brief.", "two", "\x1b[31mtwo", "three", "\x1b[31mthree", "four"]
    assert "the model is told its newer half" in said


def test_what_goes_unanswered_is_told_and_leaves_no_turn() -> None:
    parrot = Parrot()
    is_answered, out, said = talk("fail\nlong\n", parrot)
    assert not is_answered
    assert out == "long\n"
    assert "The device gave out." in said
    assert "--max-tokens allows more" in said
    assert parrot.told == [["Be brief.", "long"]]
    assert not talk("one\n", Parrot(room=1))[0]


def test_a_conversation_is_saved_by_the_files_name_and_nothing_is_overwritten(tmp_path: Path) -> None:
    where = [f"{tmp_path}/a.json", f"{tmp_path}/b.md", f"{tmp_path}/b.md", "", f"{tmp_path}/none/c.md"]
    _, _, said = talk("one\n" + "".join(f"/save {place}\n" for place in where), Parrot())
    messages = json.loads((tmp_path / "a.json").read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert "**User**\n\none" in (tmp_path / "b.md").read_text()
    assert "b.md is there already" in said
    assert "Say where to" in said
    assert "c.md cannot be written: No such file" in said


def test_a_turn_evaluates_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = io.StringIO("hello\nand now\n/save " + str(tmp_path / "chat.json"))
    monkeypatch.setattr("sys.stdin", questions)
    with running_engine(tmp_path, FakeBackend(answer="ab")) as engine:
        assert main(["--url", f"unix://{engine.place.socket}", "--max-tokens", "8"]) == 0
        eventually(lambda: engine.http.get("/health").json()["state"] == "ready")
    first, second = json.loads((tmp_path / "chat.json").read_text())["figures"]
    assert first["reused_tokens"] == 0
    assert second["reused_tokens"] == first["prompt_tokens"] + first["generated_tokens"]
    assert second["prompt_tokens"] - second["reused_tokens"] < 40
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--url", "nonsense"], 3, "--url, 'nonsense', names no engine"),
        (["--url", "http://127.0.0.1:1", "--token-file", "/nowhere"], 3, "There is no token file /nowhere"),
        (["--config", "/nowhere.toml"], 2, "/nowhere.toml cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompts", "a.json"],
        ["--max-turns", "0"],
        ["--url", "http://a:1", "--config", "b"],
        ["--web", "--port", "65536"],
        ["--web", "--prompts", "a.json", "--output", "b.jsonl"],
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_servers_that_do_not_answer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["Asking the servers", "No server answers: gpu is down. The next request looks again."])
    monkeypatch.setattr(
        "engine.chat.cli.fetch_health",
        lambda _place: Health("loading", 0.0, "", 1, "", 7, message=next(said)),
    )
    shown: list[str] = []
    health = _loaded(Endpoint(), shown.append)
    assert health is not None
    assert "gpu is down" in health.message
    assert shown == ["Asking the servers (0%)"]
