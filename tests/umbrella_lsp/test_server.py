"""``umbrella-lsp --stdio`` as a process, a real client in front of it and a scripted engine behind."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from tests.umbrella_lsp.scripted_engine import Line, Script
from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.window import URI, an_editor, at, items

COMMANDS = (
    "umbrella.accepted",
    "umbrella.server.status",
    "umbrella.server.statistics",
    "umbrella.server.unload",
)


def test_a_suggestion_reaches_the_editor_and_one_log_line_tells_its_cost(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("secret_", "name")

    async def scenario() -> None:
        async with an_editor(runtime_dir, "-X", "importtime") as editor:
            result = await editor.initialize()
            assert result.capabilities.inline_completion_provider == types.InlineCompletionOptions()
            assert result.capabilities.execute_command_provider is not None
            assert result.capabilities.execute_command_provider.commands == COMMANDS
            sync = result.capabilities.text_document_sync
            assert isinstance(sync, types.TextDocumentSyncOptions)
            assert (sync.open_close, sync.change) == (True, types.TextDocumentSyncKind.Incremental)
            editor.open(URI, "x = '😋' + \r\n")
            answer = await editor.ask(URI, 0, 11, request="first")
            assert items(answer) == [("secret_name", at(0, 11))]
            await editor.end()
        assert editor.exit_code == 0
        assert editor.messages == []
        log = [line for line in editor.stderr.splitlines() if not line.startswith("import time:")]
        assert len(log) == 1
        assert re.search(r"id=first outcome=suggested source=new .* drafted=7 accepted=5 passes=3$", log[0])
        assert "| torch" not in editor.stderr
        assert "| transformers" not in editor.stderr

    asyncio.run(scenario())
    asked = engine.asked.get_nowait()
    assert asked["umbrella"]["segments"][0]["text"] == "x = '😋' + "


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 13), ("utf-32", 10)])
def test_positions_are_counted_in_the_encoding_the_client_asks_for(
    engine: Script, runtime_dir: Path, encoding: str, column: int
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            result = await editor.initialize(encoding=encoding)
            assert result.capabilities.position_encoding == encoding
            editor.open(URI, "\fx = '😋' +\n")
            editor.insert(URI, 0, column, " ")
            assert items(await editor.ask(URI, 0, column + 1)) == [("name", at(0, column + 1))]

    asyncio.run(scenario())
    assert engine.asked.get_nowait()["umbrella"]["segments"][0]["text"] == "\fx = '😋' + "


def test_a_cancelled_request_is_answered_so_and_closes_the_engines_stream(
    engine: Script, runtime_dir: Path
) -> None:
    engine.hold("na")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            answer = editor.ask(URI, 0, 4, request="held")
            await until(engine.asked.qsize)
            editor.cancel("held")
            with pytest.raises(JsonRpcException) as cancelled:
                await answer
            assert cancelled.value.code == -32800
            await until(engine.closed.qsize)
            await editor.end()
        assert "id=held outcome=cancelled" in editor.stderr

    asyncio.run(scenario())


def test_changes_without_a_version_are_taken_in_and_what_is_no_change_makes_its_document_unknown(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")
    did_change = types.TEXT_DOCUMENT_DID_CHANGE

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            start = {"line": 0, "character": 0}
            change = {"range": {"start": start, "end": start}, "text": "# "}
            for version in ({"version": None}, {}):
                document = {"uri": URI, **version}
                editor.tell(did_change, {"textDocument": document, "contentChanges": [change]})
            assert items(await editor.ask(URI, 0, 8)) == [("name", at(0, 8))]
            assert engine.asked.get_nowait()["umbrella"]["segments"][0]["text"] == "# # x = "
            editor.tell(did_change, {"textDocument": {"uri": URI, "version": 2}, "contentChanges": 7})
            assert await editor.ask(URI, 0, 8) is None
            await editor.end()
        assert "# # x" not in editor.stderr

    asyncio.run(scenario())


def test_a_newer_request_supersedes_and_a_change_that_contradicts_closes_the_stream(
    engine: Script, runtime_dir: Path
) -> None:
    engine.hold("na")
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            first = editor.ask(URI, 0, 4, request="first")
            await until(lambda: engine.asked.qsize() == 1)
            second = editor.ask(URI, 0, 4, request="second")
            assert await first is None
            editor.insert(URI, 0, 4, "y")
            assert await second is None
            await until(lambda: engine.closed.qsize() == 1)
            assert items(await editor.ask(URI, 0, 5, request="third")) == [("name", at(0, 5))]
            await editor.end()
        outcomes = re.findall(r"id=(\w+) outcome=(\w+)", editor.stderr)
        assert outcomes == [("first", "cancelled"), ("second", "outdated"), ("third", "suggested")]

    asyncio.run(scenario())


def test_an_item_tells_where_it_came_from_and_its_command_says_that_it_was_accepted(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            answer = await editor.ask(URI, 0, 4)
            assert answer is not None
            command = answer.items[0].command
            assert command is not None
            assert command.arguments is not None
            about = command.arguments[0]
            assert about is not None
            assert (about["source"], about["tier"], about["version"]) == ("new", "target", 1)
            assert about["server_ms"] > 0
            params = types.ExecuteCommandParams(command.command, arguments=command.arguments)
            assert await editor.client.workspace_execute_command_async(params) is None

    asyncio.run(scenario())


def test_documents_that_are_no_files_and_positions_past_the_end_are_served(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open("untitled:Untitled-1", "x = ")
            assert items(await editor.ask("untitled:Untitled-1", 99, 99)) == [("name", at(0, 4))]
            editor.insert("untitled:Untitled-1", 7, 7, "\ny = ", version=9)
            editor.insert("untitled:Untitled-1", 1, 0, "# ", version=3)
            editor.insert("untitled:Unknown", 1, 0, "# ", version=3)
            await editor.ask("untitled:Untitled-1", 1, 6)
            await editor.end()
        assert "a document went from version 9 back to 3" in editor.stderr
        assert "a change to a document that is not open was ignored" in editor.stderr

    asyncio.run(scenario())
    engine.asked.get_nowait()
    assert engine.asked.get_nowait()["umbrella"]["segments"][0]["text"] == "x = \n# y = "


def test_answers_may_come_from_the_cache_be_empty_or_extend_the_editors_own_list(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")
    engine.say("\n")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            await editor.ask(URI, 0, 4)
            editor.insert(URI, 0, 4, "na")
            assert items(await editor.ask(URI, 0, 6)) == [("me", at(0, 6))]
            assert engine.asked.qsize() == 1
            editor.insert(URI, 0, 6, "me", version=3)
            assert items(await editor.ask(URI, 0, 8)) == []
            assert await editor.ask("file:///home/someone/unknown.py", 0, 0) is None
            word = types.Range(types.Position(0, 4), types.Position(0, 8))
            engine.lines[:] = [Line(("(path)",))]
            extended = await editor.ask(URI, 0, 8, selected=types.SelectedCompletionInfo(word, "named"))
            assert items(extended) == [("named(path)", word)]

    asyncio.run(scenario())


def test_requests_of_other_versions_are_served_and_what_is_no_request_is_refused(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            place = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 4}}
            for kind in (0, 3):
                answer = await editor.ask_as({"context": {"triggerKind": kind}, **place})
                assert items(answer) == [("name", at(0, 4))]
            with pytest.raises(JsonRpcException) as refused:
                await editor.ask_as({"x": "my code"})
            assert refused.value.code == -32602
            await editor.end()
        assert "my code" not in editor.stderr

    asyncio.run(scenario())


def test_definitions_in_the_workspace_are_shown_to_the_model(
    engine: Script, runtime_dir: Path, tmp_path: Path
) -> None:
    engine.say("add(book)")
    (tmp_path / "shelf.py").write_text("class Shelf:\n    def add(self, book): ...\n")
    uri = (tmp_path / "app.py").as_uri()

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(root=tmp_path)
            editor.open(uri, "shelf = Shelf()\nshelf.\n")
            paths: set[str] = set()
            while "shelf.py" not in paths:
                editor.insert(uri, 0, 0, "\n")
                await editor.ask(uri, 99, 0)
                paths = {segment["path"] for segment in engine.asked.get_nowait()["umbrella"]["segments"]}

    asyncio.run(scenario())


def test_numbers_that_lsp_has_no_room_for_are_as_near_as_can_be(engine: Script, runtime_dir: Path) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "old\ntext\n")
            everything = {"start": {"line": -1, "character": 0}, "end": {"line": 2**32 - 1, "character": 0}}
            editor.change_as(URI, {"range": everything, "text": "x = "})
            place = {"textDocument": {"uri": URI}, "position": {"line": 2**32 - 1, "character": -1}}
            answer = await editor.ask_as({"context": {"triggerKind": 2}, **place})
            assert items(answer) == [("name", at(0, 4))]

    asyncio.run(scenario())


def test_a_document_that_is_opened_anew_is_another_one(engine: Script, runtime_dir: Path) -> None:
    engine.hold("na")
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            first = editor.ask(URI, 0, 4)
            await until(engine.asked.qsize)
            editor.open(URI, "y = \n")
            assert await first is None
            await until(engine.closed.qsize)
            assert items(await editor.ask(URI, 0, 4)) == [("name", at(0, 4))]

    asyncio.run(scenario())
