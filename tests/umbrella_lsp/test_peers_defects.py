"""Defects that users of other completion tools complain of most, shown to be absent.

Here are those which cross several modules; the rest is shown where the module that could have it is tested.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from engine.errors import CheckpointError
from tests.umbrella_lsp.cursor import at_cursor
from tests.umbrella_lsp.fakes import NoSyntax, saying
from tests.umbrella_lsp.fitting import Cursor, read_cases
from tests.umbrella_lsp.scripted_engine import Script
from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.window import URI, Editor, an_editor
from umbrella_lsp.completer import Completer
from umbrella_lsp.fit.stop import first_part
from umbrella_lsp.pace import Speed, Speedometer
from umbrella_lsp.settings import Settings

OTHER = "file:///home/someone/other.py"
WINDOW_MB = 250
"""For the server and the two processes that know syntax and workspace, before there is much of that."""
GOLDEN = Path(__file__).parents[1] / "golden" / "postprocess"


def prefixes(engine: Script) -> list[str]:
    """What stood in front of the cursor each time the engine was asked."""
    asked = [engine.asked.get_nowait() for _ in range(engine.asked.qsize())]
    return [body["umbrella"]["segments"][0]["text"] for body in asked]


def counted(editor: Editor) -> Counter[object]:
    """How often each request is answered from now on."""
    protocol, answers = editor.client.protocol, Counter[object]()
    handle = protocol._handle_response

    def count(msg_id: Any, result: Any = None, error: Any = None) -> None:
        answers[msg_id] += 1
        handle(msg_id, result, error)

    protocol._handle_response = count
    return answers


def test_every_request_is_answered_once_whatever_becomes_of_it(engine: Script, runtime_dir: Path) -> None:
    engine.hold("na")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            answers = counted(editor)
            editor.open(URI, "x = \n")
            editor.open(OTHER, "y = \n")
            superseded = editor.ask(URI, 0, 4, request="superseded")
            await until(engine.asked.qsize)
            cancelled = editor.ask(URI, 0, 4, request="cancelled")
            unknown = editor.ask("file:///home/someone/unknown.py", 0, 0, request="unknown")
            closed = editor.ask(OTHER, 0, 4, request="closed")
            editor.cancel("cancelled")
            closing = types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(OTHER))
            editor.client.text_document_did_close(closing)
            editor.cancel("unknown")
            editor.cancel("superseded")
            assert [await superseded, await unknown, await closed] == [None, None, None]
            with pytest.raises(JsonRpcException, match=r"[Cc]ancel"):
                await cancelled
            await editor.client.shutdown_async(None)
            for request in ("superseded", "cancelled", "unknown", "closed"):
                assert answers[request] == 1, request

    asyncio.run(scenario())


def test_no_document_waits_for_anothers_answer_and_each_can_be_changed_meanwhile(
    engine: Script, runtime_dir: Path
) -> None:
    engine.hold("na")
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            held = editor.ask(URI, 0, 4)
            await until(engine.asked.qsize)
            editor.insert(URI, 0, 4, "n")
            editor.open(OTHER, "y = \n")
            editor.insert(OTHER, 0, 0, "z")
            answer = await editor.ask(OTHER, 0, 5)
            assert answer is not None
            assert [item.insert_text for item in answer.items] == ["name"]
            assert not held.done()
            assert engine.closed.empty()
            held.cancel()

    asyncio.run(scenario())


def test_a_request_is_about_the_document_as_it_was_when_it_was_sent(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("name")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = \n")
            early = editor.ask(URI, 0, 4)  # The server has much to load by then, and the next key is quicker.
            editor.insert(URI, 0, 0, "import os\n")
            assert await early is None
            answer = await editor.ask(URI, 1, 4)
            assert answer is not None
            assert [item.insert_text for item in answer.items] == ["name"]

    asyncio.run(scenario())
    asked = prefixes(engine)
    assert asked[-1] == "import os\nx = "
    assert set(asked[:-1]) <= {"x = "}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_is_accepted_leaves_nothing_of_what_was_typed_and_doubles_nothing(
    engine: Script, runtime_dir: Path, encoding: str
) -> None:
    """A line ending of the document's own, a range on one line, and columns that are no indices."""
    engine.say("name)\nfor x in y:")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(encoding=encoding)
            codec, width = ("utf-16-le", 2) if encoding == "utf-16" else ("utf-8", 1)
            before = "f('😋', "

            def column(text: str) -> int:
                return len(text.encode(codec)) // width

            editor.open(URI, f"é = 1\r\n{before})\r\n")
            for version, typed in enumerate(("", "na"), 2):
                at = column(before + typed)
                if typed:
                    editor.insert(URI, 1, column(before), typed, version)
                answer = await editor.ask(URI, 1, at)
                assert answer is not None
                (item,) = answer.items
                assert isinstance(item.insert_text, str)
                assert item.range is not None
                assert item.range.start == types.Position(1, at)
                assert item.range.end.line == 1
                row = f"{before}{typed})".encode(codec)
                kept = (
                    row[: at * width]
                    + item.insert_text.encode(codec)
                    + row[item.range.end.character * width :]
                )
                assert kept.decode(codec) == f"{before}name)"

    asyncio.run(scenario())


def test_a_key_is_not_taken_for_somebody_who_asks_nor_the_other_way_round(
    engine: Script, runtime_dir: Path
) -> None:
    engine.say("\ny = 2")

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize()
            editor.open(URI, "x = 1\n")
            await editor.ask(URI, 0, 5)
            await editor.ask(URI, 0, 5, kind=types.InlineCompletionTriggerKind.Invoked)

    asyncio.run(scenario())
    automatic, invoked = (engine.asked.get_nowait() for _ in range(2))
    assert (automatic["umbrella"]["n"], invoked["umbrella"]["n"]) == (1, 3)
    assert invoked["umbrella"]["stop"]["max_lines"] > automatic["umbrella"]["stop"]["max_lines"]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_mb(pid: int) -> float:
    """Memory of a process and of all that it has started, what they share counted once."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return own / 1024 + sum(resident_mb(child) for child in children_of(pid))


def test_a_window_takes_a_quarter_of_a_gigabyte_at_most(
    engine: Script, runtime_dir: Path, tmp_path: Path
) -> None:
    engine.say("name")
    uri = (tmp_path / "app.py").as_uri()

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(root=tmp_path)
            editor.open(uri, "x = \n")
            assert await editor.ask(uri, 0, 4)
            await until(lambda: len(children_of(editor.process.pid)) == 2)
            assert resident_mb(editor.process.pid) < WINDOW_MB

    asyncio.run(scenario())


def test_what_is_known_already_is_not_put_off_for_a_slow_target(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        completer = Completer(
            saying("name"),
            NoSyntax(),
            settings=Settings(min_confidence=0.0),
            speed=Speedometer(Speed(pass_ms=2000.0)),
        )
        monkeypatch.setattr("umbrella_lsp.completer.pause_ms", lambda *_: 0.0)
        assert (await completer.complete(*at_cursor("x = ‸\n"))).suggestions
        monkeypatch.setattr("umbrella_lsp.completer.pause_ms", lambda *_: 3_600_000.0)
        asked = asyncio.create_task(completer.complete(*at_cursor("x = na‸\n")))
        await asyncio.sleep(0)
        assert asked.done()
        completer.close()

    asyncio.run(scenario())


def test_what_was_shown_of_a_text_is_not_exchanged_when_more_of_it_comes() -> None:
    compared = 0
    for case in (case for file in sorted(GOLDEN.glob("*.txt")) for case in read_cases(file)):
        cursor = Cursor(case.marked, case.language, has_syntax=False, invoked=case.invoked)
        whole = cursor.fit(case.generated).text
        for end in (at + 1 for at, char in enumerate(case.generated) if char == "\n"):
            if first_part(case.generated[:end], cursor.extent):
                shown = cursor.fit(case.generated[:end]).text
                assert whole.startswith(shown) or shown.startswith(whole), case.name
                compared += 1
    assert compared > 50


def test_nobody_needs_a_network_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one asked where the tests' own refusal of it is taken back."""
    # Here, because the rest of this file does without torch.
    from huggingface_hub import constants

    from engine.checkpoint import find
    from engine.tokenizer import Tokenizer

    def refuse(*_: object, **__: object) -> NoReturn:
        attempts.append("network")
        raise OSError("no network")

    attempts: list[str] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(CheckpointError):
        find("someone/model")
    assert Tokenizer.load(find("bundled:target")).vocab_size > 0
    assert attempts == []
