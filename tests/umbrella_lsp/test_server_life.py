"""How a server process begins, goes on and ends, whatever its engine and its editor do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from lsprotocol import types

from tests.umbrella_lsp.scripted_engine import Script
from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.window import URI, an_editor, at, items
from umbrella_lsp.acceptance.tally import read_days


def test_settings_come_from_the_client_and_what_is_wrong_is_said_once(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir, settings={"max_tokens": 7, "colour": "red"}) as editor:
            await editor.initialize(options={"max_lines": 2, "max_tokens": 5})
            editor.open(URI, "x = \n")
            await editor.ask(URI, 0, 4)
            assert engine.asked.get_nowait()["n_predict"] == 7
            editor.settings = {"enabled": False, "colour": "red"}
            changed = types.DidChangeConfigurationParams(settings=None)
            editor.client.workspace_did_change_configuration(changed)
            # The server asks for its settings after it was told of the change, so not at once.
            while items(await editor.ask(URI, 0, 4)):
                pass
            (message,) = editor.messages
            assert message.startswith("umbrella.colour is no setting")

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["goodbye", "pipe", "signal"])
def test_the_process_ends_with_its_editor_whatever_is_going_on(
    engine: Script, runtime_dir: Path, tmp_path: Path, how: Literal["goodbye", "pipe", "signal"]
) -> None:
    engine.hold("na")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(root=tmp_path)
            editor.open(URI, "x = \n")
            answer = editor.ask(URI, 0, 4)
            await until(engine.asked.qsize)
            await editor.end(how)
            answer.cancel()
        assert editor.exit_code == 0
        assert "Traceback" not in editor.stderr
        await until(engine.closed.qsize)

    asyncio.run(scenario())


def test_an_engine_that_crashes_costs_one_suggestion_and_nobodys_attention(
    engine: Script, runtime_dir: Path
) -> None:
    engine.break_off("na")
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            assert await editor.ask(URI, 0, 4) is None
            assert items(await editor.ask(URI, 0, 4)) == [("name", at(0, 4))]
            assert editor.messages == []

    asyncio.run(scenario())


def test_a_client_that_answers_null_for_its_settings_may_push_them(runtime_dir: Path) -> None:
    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            editor.answers_settings = False
            await editor.initialize(experimental={"umbrella": {"status": True}}, options={"enabled": False})
            await until(lambda: editor.statuses)
            pushed = types.DidChangeConfigurationParams({"umbrella": {"enabled": True}})
            editor.client.workspace_did_change_configuration(pushed)
            await until(lambda: editor.statuses[-1]["kind"] != "off")

    asyncio.run(scenario())


def test_what_a_lost_tasks_error_says_is_not_logged() -> None:
    program = (
        "import logging; from umbrella_lsp.cli import configure_logging; configure_logging();"
        "logging.getLogger('asyncio').error('It was lost\\nfuture: <Task exception=ValueError(\"my code\")>')"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr.endswith("ERROR asyncio: It was lost\n")


def test_without_an_engine_requests_are_answered_null_and_the_user_is_told_once(runtime_dir: Path) -> None:
    runtime_dir.write_text("a file where a folder should be")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            assert await editor.ask(URI, 0, 4) is None
            assert await editor.ask(URI, 0, 4) is None
            assert len(editor.messages) == 1
            assert str(runtime_dir) in editor.messages[0]

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["goodbye", "pipe", "signal"])
def test_what_was_accepted_is_counted_however_the_editor_ends(
    engine: Script,
    runtime_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Literal["goodbye", "pipe", "signal"],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            await editor.ask(URI, 0, 4)
            editor.insert(URI, 0, 4, "name")
            await editor.ask(URI, 0, 8)
            await editor.end(how)

    asyncio.run(scenario())
    (day,) = read_days(tmp_path / "umbrella-lsp" / "acceptance.json").values()
    assert (day["all"].accepted, day["all"].saved) == (1, 4)
