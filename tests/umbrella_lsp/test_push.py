"""The engine holds what the workspace's files say."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engine.client import Endpoint
from tests.umbrella_lsp.editor import an_editor
from tests.umbrella_lsp.scripted_engine import Script, running
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.completer import digest
from umbrella_lsp.push import Pusher


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbrella_lsp.push.SETTLE_S", 0)


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="umb-") as folder:
        yield Path(folder) / "run"


@pytest.fixture
def engine(runtime_dir: Path) -> Iterator[Script]:
    with running(runtime_dir) as script:
        yield script


@asynccontextmanager
async def a_pusher() -> AsyncGenerator[Pusher]:
    pusher = Pusher()
    pusher.configure("one")
    task = asyncio.create_task(pusher.run())
    try:
        yield pusher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def next_push(script: Script) -> dict[str, Any]:
    """The next push, its documents by what they are called."""
    await until(script.pushed.qsize)
    push = script.pushed.get_nowait()
    return push | {"documents": {d["path"]: d["text"] for d in push["documents"]}}


def body(
    documents: dict[Path, str], *, removed: tuple[Path, ...] = (), clear: bool = False, key: str = "one"
) -> dict[str, object]:
    texts = {digest(str(file)): text for file, text in documents.items()}
    names = [digest(str(file)) for file in removed]
    return {"workspace": key, "documents": texts, "removed": names, "clear": clear}


def endpoint(runtime_dir: Path) -> Endpoint:
    return Endpoint(socket=runtime_dir / "engine.sock")


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_an_engine_gets_all_files_when_it_is_reached_and_then_what_changes(
    engine: Script, runtime_dir: Path, tmp_path: Path
) -> None:
    a, b = write(tmp_path / "a.py", "a = 1\n"), write(tmp_path / "folder" / "b.py", "b = 1\r\n")

    async def scenario() -> None:
        async with a_pusher() as pusher:
            pusher.touched(str(a))
            pusher.touched(str(b))
            pusher.reached(endpoint(runtime_dir))
            assert await next_push(engine) == body({a: "a = 1\n", b: "b = 1\n"}, clear=True)
            write(a, "a = 2\n")
            pusher.saved(str(tmp_path / "elsewhere.py"))
            pusher.saved(str(a))
            assert await next_push(engine) == body({a: "a = 2\n"})
            shutil.rmtree(b.parent)
            pusher.touched(str(b.parent))
            assert await next_push(engine) == body({}, removed=(b,))

    asyncio.run(scenario())


def test_another_engine_or_another_key_gets_everything_anew(
    engine: Script, runtime_dir: Path, tmp_path: Path
) -> None:
    a, b = write(tmp_path / "a.py", "a = 1\n"), write(tmp_path / "b.py", "b = 1\n")

    async def scenario() -> None:
        async with a_pusher() as pusher:
            pusher.touched(str(a))
            pusher.reached(endpoint(runtime_dir))
            assert await next_push(engine) == body({a: "a = 1\n"}, clear=True)
            await until(lambda: pusher._holder is not None)  # The answer has come, too.
            engine.pid += 1
            pusher.touched(str(b))
            assert await next_push(engine) == body({a: "a = 1\n", b: "b = 1\n"}, clear=True)
            pusher.configure("two")
            assert await next_push(engine) == body({a: "a = 1\n", b: "b = 1\n"}, clear=True, key="two")

    asyncio.run(scenario())


def test_an_engine_that_is_away_gets_what_it_missed_when_it_is_back(
    runtime_dir: Path, tmp_path: Path
) -> None:
    a, b = write(tmp_path / "a.py", "a = 1\n"), write(tmp_path / "b.py", "b = 1\n")

    async def scenario() -> None:
        async with a_pusher() as pusher:
            with running(runtime_dir) as engine:
                pusher.touched(str(a))
                pusher.reached(endpoint(runtime_dir))
                assert await next_push(engine) == body({a: "a = 1\n"}, clear=True)
                await until(lambda: pusher._holder is not None)  # The answer has come, too.
            pusher.touched(str(b))
            await until(lambda: not pusher._wake.is_set())
            with running(runtime_dir) as engine:
                pusher.reached(endpoint(runtime_dir))
                assert await next_push(engine) == body({b: "b = 1\n"})

    asyncio.run(scenario())


def test_many_files_go_in_batches(engine: Script, runtime_dir: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.py", f"{n}" * 150_000) for n in range(5)]

    async def scenario() -> None:
        async with a_pusher() as pusher:
            for file in files:
                pusher.touched(str(file))
            pusher.reached(endpoint(runtime_dir))
            first, second = await next_push(engine), await next_push(engine)
            assert [len(first["documents"]), len(second["documents"])] == [4, 1]
            assert (first["clear"], second["clear"]) == (True, False)

    asyncio.run(scenario())


def test_a_server_pushes_its_workspace_under_the_key_that_its_requests_carry(
    engine: Script, runtime_dir: Path, tmp_path: Path
) -> None:
    engine.say("add(book)")
    shelf = write(tmp_path / "shelf.py", "class Shelf: ...\n")
    write(tmp_path / "secrets.py", "PASSWORD = 'x'\n")
    uri = (tmp_path / "app.py").as_uri()

    async def scenario() -> None:
        async with an_editor(runtime_dir) as editor:
            await editor.initialize(root=tmp_path)
            editor.open(uri, "shelf = Shelf()\nshelf.\n")
            await editor.ask(uri, 1, 6)
            key = engine.asked.get_nowait()["umbrella"]["workspace"]
            documents: dict[str, str] = {}
            while digest(str(shelf)) not in documents:
                push = await next_push(engine)
                assert push["workspace"] == key
                documents |= push["documents"]
            assert set(documents.values()) == {"class Shelf: ...\n"}
            await editor.end()
        assert os.fspath(tmp_path) not in editor.stderr

    asyncio.run(scenario())
