"""The engine holds what the workspace's files say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.umbrella_lsp.scripted_engine import Script, running
from tests.umbrella_lsp.waiting import until
from umbrella_lsp.names import digest
from umbrella_lsp.workspace.messages import Reached
from umbrella_lsp.workspace.pushing import Pusher


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbrella_lsp.workspace.pushing.SETTLE_S", 0)


@asynccontextmanager
async def a_pusher(files: dict[str, str]) -> AsyncGenerator[Pusher]:
    """A pusher of `files`, which are all there is."""

    async def read(path: str) -> str | None:
        return files.get(path)

    pusher = Pusher(read)
    pusher.configure("one", files)
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
    documents: dict[str, str], *, removed: tuple[str, ...] = (), clear: bool = False, key: str = "one"
) -> dict[str, object]:
    texts = {digest(path): text for path, text in documents.items()}
    return {"workspace": key, "documents": texts, "removed": [*map(digest, removed)], "clear": clear}


def endpoint(runtime_dir: Path) -> Reached:
    return Reached(str(runtime_dir / "engine.sock"), 0, "")


def test_an_engine_gets_all_files_when_it_is_reached_and_then_what_changes(
    engine: Script, runtime_dir: Path
) -> None:
    files = {"/a.py": "a = 1\n", "/b.py": "b = 1\n"}

    async def scenario() -> None:
        async with a_pusher(files) as pusher:
            pusher.reached(endpoint(runtime_dir))
            assert await next_push(engine) == body(files, clear=True)
            files["/a.py"] = "a = 2\n"
            pusher.touched("/a.py")
            pusher.touched("/never seen.py")
            assert await next_push(engine) == body({"/a.py": "a = 2\n"})
            del files["/b.py"]
            pusher.touched("/b.py")
            assert await next_push(engine) == body({}, removed=("/b.py",))

    asyncio.run(scenario())


def test_another_engine_or_another_key_gets_everything_anew(engine: Script, runtime_dir: Path) -> None:
    files = {"/a.py": "a = 1\n"}

    async def scenario() -> None:
        async with a_pusher(files) as pusher:
            pusher.reached(endpoint(runtime_dir))
            assert await next_push(engine) == body(files, clear=True)
            await until(lambda: pusher._holder is not None)  # The answer has come, too.
            engine.pid += 1
            files["/b.py"] = "b = 1\n"
            pusher.touched("/b.py")
            assert await next_push(engine) == body(files, clear=True)
            pusher.configure("two", ())
            assert await next_push(engine) == body(files, clear=True, key="two")

    asyncio.run(scenario())


def test_an_engine_that_is_away_gets_what_it_missed_when_it_is_back(runtime_dir: Path) -> None:
    files = {"/a.py": "a = 1\n"}

    async def scenario() -> None:
        async with a_pusher(files) as pusher:
            with running(runtime_dir) as engine:
                pusher.reached(endpoint(runtime_dir))
                assert await next_push(engine) == body(files, clear=True)
                await until(lambda: pusher._holder is not None)  # The answer has come, too.
            files["/b.py"] = "b = 1\n"
            pusher.touched("/b.py")
            await until(lambda: not pusher._wake.is_set())
            with running(runtime_dir) as engine:
                pusher.reached(endpoint(runtime_dir))
                assert await next_push(engine) == body({"/b.py": "b = 1\n"})

    asyncio.run(scenario())


def test_many_files_go_in_batches(engine: Script, runtime_dir: Path) -> None:
    files = {f"/{number}.py": f"{number}" * 150_000 for number in range(5)}

    async def scenario() -> None:
        async with a_pusher(files) as pusher:
            pusher.reached(endpoint(runtime_dir))
            first, second = await next_push(engine), await next_push(engine)
            assert [len(first["documents"]), len(second["documents"])] == [4, 1]
            assert (first["clear"], second["clear"]) == (True, False)

    asyncio.run(scenario())
