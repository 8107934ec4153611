"""What a server process tells its editor of itself and its engine, and what it is told in return."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from tests.umbrella_lsp.scripted_engine import Script, running
from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.window import URI, an_editor, at, items
from umbrella_lsp.acceptance.tally import read_days

WANTS_STATUS = {"umbrella": {"status": True}}
MODEL = {"model": "big", "draft_model": "small", "languages": ["python"]}


def test_an_editor_that_wants_to_know_is_told_how_its_engine_is(engine: Script, runtime_dir: Path) -> None:
    engine.hold("na")
    loading = {"state": "loading", "progress": 0.25, "message": "Loading layer 1 of 4"}
    engine.health |= {**loading, **MODEL}

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(experimental=WANTS_STATUS)
            await until(lambda: len(editor.statuses) == 2 and editor.progress)
            engine.health |= {"state": "ready", "progress": 1.0, "message": "Less fits than was planned."}
            await until(lambda: editor.statuses[-1]["kind"] == "ready")
            editor.open(URI, "x = \n")
            engine.health["state"] = "loading"  # As after its memory was given back.
            answer = editor.ask(URI, 0, 4, request="held")
            await until(lambda: editor.statuses[-1]["kind"] == "loading" and len(editor.progress) == 3)
            engine.health["state"] = "ready"
            await until(lambda: editor.statuses[-1]["busy"])
            editor.cancel("held")
            editor.insert(URI, 0, 0, "#")
            await until(lambda: not editor.statuses[-1]["busy"])
            assert await editor.run("umbrella.server.status") == editor.statuses[-1]
            engine.has_ended.set()
            await until(lambda: editor.statuses[-1]["kind"] == "unloaded")
            answer.cancel()
            assert [(status["kind"], status["busy"]) for status in editor.statuses] == [
                ("starting", False),
                ("loading", False),
                ("ready", False),
                ("ready", True),
                ("loading", False),
                ("ready", True),
                ("ready", False),
                ("unloaded", False),
            ]
            assert [status["progress"] for status in editor.statuses[:3]] == [None, 0.25, None]
            assert {status["model"] for status in editor.statuses[1:]} == {"big + small"}
            assert editor.statuses[2]["languages"] == ["python"]
            assert [status["message"] for status in editor.statuses[1:3]] == ["Loading layer 1 of 4.", ""]
            assert [one["kind"] for one in editor.progress] == 2 * ["begin", "end"]
            assert [one.get("percentage") for one in editor.progress[:2]] == [25, None]
            assert editor.progress[0]["message"] == "Loading layer 1 of 4."
            assert editor.messages == ["Less fits than was planned."], "once, however often it is asked for"

    asyncio.run(scenario())


def test_other_settings_are_used_at_once_be_it_another_engine_or_none(
    engine: Script, runtime_dir: Path, tmp_path: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        nowhere = {"engine": {"url": f"unix://{tmp_path}/none.sock"}}
        async with an_editor(runtime_dir, settings=nowhere) as editor:
            await editor.initialize(experimental=WANTS_STATUS)
            await until(lambda: editor.statuses and editor.statuses[-1]["kind"] == "error")
            editor.open(URI, "x = \n")
            assert await editor.ask(URI, 0, 4) is None
            assert await editor.ask(URI, 0, 4) is None
            assert editor.messages == [editor.statuses[-1]["message"]]
            editor.choose({"engine": {"url": f"unix://{runtime_dir}/engine.sock"}})
            await until(lambda: editor.statuses[-1]["kind"] == "ready")
            assert items(await editor.ask(URI, 0, 4)) == [("name", at(0, 4))]
            refused = await editor.run("umbrella.server.unload")
            assert "not this editor's to unload" in refused["message"]
            assert engine.unloads == 0
            # One engine is used instead of another: that is the end of none.
            assert [status["kind"] for status in editor.statuses] == [
                "starting",
                "error",
                "starting",
                "ready",
            ]
            editor.choose({"engine": {"url": "http://me:hush@localhost:1"}})
            await until(lambda: editor.statuses[-1]["kind"] == "error")
            refused = await editor.run("umbrella.server.unload")
            assert "hush" not in str([refused, editor.messages])
            editor.choose({"enabled": False})
            await until(lambda: editor.statuses[-1]["kind"] == "off")
            assert items(await editor.ask(URI, 0, 4)) == []
            editor.choose({"engine": {"url": f"unix://{runtime_dir}/engine.sock"}, "languages": ["go"]})
            await until(lambda: editor.statuses[-1]["kind"] == "ready")
            assert editor.statuses[-1]["languages"] == ["go"]
            assert items(await editor.ask(URI, 0, 4)) == []
            assert len(editor.messages) == 2

    asyncio.run(scenario())


def test_the_engine_is_unloaded_at_the_users_command(engine: Script, runtime_dir: Path) -> None:
    engine.say("name")
    engine.health["config_hash"] = EngineConfig().digest()

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            while (await editor.run("umbrella.server.status"))["kind"] != "ready":
                pass
            said = await editor.run("umbrella.server.unload")
            assert said == {"message": "The models' memory is free. The next request loads them."}
            assert engine.unloads == 1
            assert (await editor.run("umbrella.server.status"))["kind"] == "unloaded"
            editor.open(URI, "x = \n")
            assert items(await editor.ask(URI, 0, 4)) == [("name", at(0, 4))]
            engine.has_ended.set()
            while (await editor.run("umbrella.server.unload"))["message"] != "No engine runs.":
                pass
            assert editor.statuses == []  # Nobody asked for them.

    asyncio.run(scenario())


MALFORMED: list[tuple[str, object]] = [
    ("umbrella/feedback", None),
    ("umbrella/feedback", 7),
    ("umbrella/feedback", []),
    ("umbrella/feedback", {"id": 7, "event": "shown"}),
    ("umbrella/feedback", {"id": "s1", "event": "eaten", "class": 1}),
    ("textDocument/didShowCompletion", {"item": {"command": {"arguments": []}}}),
    ("textDocument/didPartiallyAcceptCompletion", {"item": {"command": None}, "acceptedLength": "2"}),
]


def test_what_an_editor_says_of_its_suggestions_is_counted_and_nonsense_does_no_harm(
    engine: Script, runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    engine.say("one two")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            for method, params in MALFORMED:
                editor.tell(method, params)

            async def offered(number: int) -> dict[str, Any]:
                """The item for a document of its own."""
                uri = f"file:///home/someone/{number}.py"
                editor.open(uri, "x = \n")
                answer = await editor.ask(uri, 0, 4)
                assert answer is not None
                command = answer.items[0].command
                assert command is not None
                assert command.arguments is not None
                return {"command": {"command": command.command, "arguments": [*command.arguments]}}

            seen, partly, dismissed, accepted, _unseen = [await offered(number) for number in range(5)]
            editor.tell("textDocument/didShowCompletion", {"item": seen})
            editor.tell("textDocument/didPartiallyAcceptCompletion", {"item": partly, "acceptedLength": 4})
            name = dismissed["command"]["arguments"][0]["id"]
            editor.tell("umbrella/feedback", {"id": name, "event": "dismissed"})
            assert await editor.run(accepted["command"]["command"], *accepted["command"]["arguments"]) is None
            editor.insert("file:///home/someone/1.py", 0, 4, "one ")
            for number in range(5):
                editor.insert(f"file:///home/someone/{number}.py", 1, 0, "y")
            said = await editor.run("umbrella.server.statistics")
            assert said["text"].startswith("Suggestions since ")
            await editor.end()
            assert editor.messages == []
            assert "could not be handled" not in editor.stderr

    asyncio.run(scenario())
    (day,) = read_days(tmp_path / "umbrella-lsp" / "acceptance.json").values()
    found = day["all"]
    assert (found.offered, found.dismissed, found.partly, found.left, found.accepted) == (4, 1, 1, 1, 1)
    assert found.saved == len("one " + "one two")


def test_a_client_that_is_slow_to_send_its_settings_is_waited_for_a_moment_and_no_longer(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir, settings={"max_tokens": 7}) as editor:
            editor.has_settings.clear()
            await editor.initialize(options={"max_tokens": 5})
            editor.open(URI, "x = \n")
            await editor.ask(URI, 0, 4)
            assert engine.asked.get_nowait()["n_predict"] == 5
            editor.has_settings.set()
            used = [5]
            while used[-1] != 7:  # A request that the settings overtake may ask the engine nothing.
                editor.insert(URI, 0, 0, "y")
                await editor.ask(URI, 99, 0)
                used += [engine.asked.get_nowait()["n_predict"] for _ in range(engine.asked.qsize())]

    asyncio.run(scenario())


def test_an_engine_elsewhere_that_is_gone_is_told_once_and_none_is_started(
    tmp_path: Path, runtime_dir: Path
) -> None:
    async def scenario() -> None:
        settings = {"engine": {"url": f"unix://{runtime_dir}/engine.sock"}}
        async with an_editor(tmp_path / "run", settings=settings) as editor:
            with running(runtime_dir) as engine:
                engine.say("name")
                await editor.initialize(experimental=WANTS_STATUS)
                editor.open(URI, "x = \n")
                assert items(await editor.ask(URI, 0, 4)) == [("name", at(0, 4))]
            editor.insert(URI, 0, 0, "\n")
            for _ in range(2):
                assert await editor.ask(URI, 1, 4) is None
            assert editor.statuses[-1]["kind"] == "error"
            assert editor.messages == [editor.statuses[-1]["message"]]
        assert not (tmp_path / "run").exists()

    asyncio.run(scenario())
