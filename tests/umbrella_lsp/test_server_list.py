"""Suggestions in ordinary completion lists, asked of a server process by a client that wants them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lsprotocol import types

from tests.umbrella_lsp.scripted_engine import Script
from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.window import URI, an_editor

INVOKED = types.CompletionTriggerKind.Invoked
DYNAMIC = types.CompletionClientCapabilities(dynamic_registration=True)


def test_a_client_that_wants_a_list_from_the_first_gets_what_ghost_text_would_be(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("me(1)")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            result = await editor.initialize(options={"completionList": True})
            options = result.capabilities.completion_provider
            assert options is not None
            assert options.trigger_characters
            assert " " not in options.trigger_characters
            editor.open(URI, "x = 1\n")
            editor.insert(URI, 1, 0, "y = na")
            (item,) = await editor.completions(URI, 1, 6, INVOKED)
            assert (item.label, item.filter_text, item.detail) == ("name(1)", "name(1)", "umbrella")
            assert item.documentation == "name(1)"
            word = types.Range(types.Position(1, 4), types.Position(1, 6))
            assert item.text_edit == types.TextEdit(word, "name(1)")
            assert item.command is not None
            assert item.command.command == "umbrella.accepted"
            automatic = engine.asked.get_nowait()
            await editor.completions(URI, 1, 6, INVOKED)  # Again in the same place: somebody means it.
            asked = engine.asked.get_nowait()
            assert (automatic["umbrella"]["n"], asked["umbrella"]["n"]) == (1, 3)
            assert await editor.ask_as(
                {
                    "textDocument": {"uri": URI},
                    "position": {"line": 1, "character": 6},
                    "context": {"triggerKind": 9},
                },
                types.TEXT_DOCUMENT_COMPLETION,
            )

    asyncio.run(scenario())


def test_a_list_is_silent_where_ghost_text_is(engine: Script, runtime_dir: Path) -> None:
    engine.say("\n")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(options={"completion_list": True})
            editor.open(URI, "x = 1\nname\n")
            assert await editor.completions(URI, 1, 2) == []
            assert engine.asked.empty()
            assert await editor.completions(URI, 0, 5) == []
            assert await editor.completions("file:///home/someone/unknown.py", 0, 0) == []
            assert editor.messages == []

    asyncio.run(scenario())


def test_a_client_may_come_to_want_a_list_and_no_more(engine: Script, runtime_dir: Path) -> None:
    engine.say("name")
    method = types.TEXT_DOCUMENT_COMPLETION

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            result = await editor.initialize(completion=DYNAMIC)
            assert result.capabilities.completion_provider is None
            editor.open(URI, "x = \n")
            editor.choose({"completion_list": True})
            await until(lambda: method in editor.registered)
            assert [item.label for item in await editor.completions(URI, 0, 4)] == ["name"]
            editor.choose({"completion_list": False})
            await until(lambda: method not in editor.registered)
            assert await editor.completions(URI, 0, 4) == []

    asyncio.run(scenario())
