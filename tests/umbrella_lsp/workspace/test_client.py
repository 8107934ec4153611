"""The server's index of a workspace that a process of its own reads."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.client import Endpoint
from tests.umbrella_lsp.scripted_engine import running
from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.workspace.files import write
from umbrella_lsp.child import Child
from umbrella_lsp.document import Document
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.names import digest
from umbrella_lsp.settings import Settings
from umbrella_lsp.workspace.client import MODULE, Progress, Workspace

UNLUCKY = "tests.umbrella_lsp.workspace.unlucky"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The processes that a test has started; they can import tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("umbrella_lsp.workspace.client.SHOW_EVERY_S", 0.0)
    monkeypatch.setattr("umbrella_lsp.workspace.client.TICK_S", 0.01)
    started, start = list[Child](), Child.start

    async def noted(*command: str) -> Child:
        started.append(await start(*command))
        return started[-1]

    monkeypatch.setattr(Child, "start", noted)
    return started


@asynccontextmanager
async def a_workspace(
    *roots: Path, settings: Settings | None = None, module: str = UNLUCKY
) -> AsyncGenerator[tuple[Workspace, SymbolIndex, list[Progress]]]:
    """A workspace that has been read, what is known of it, and what it said meanwhile."""
    index, progress = SymbolIndex(), list[Progress]()
    workspace = Workspace(index, progress.append, module=module)
    workspace.configure(roots, settings or Settings(), "key")
    try:
        async with asyncio.timeout(30):
            await workspace.settled()
        yield workspace, index, progress
    finally:
        await workspace.aclose()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_workspace_is_read_and_followed_and_nothing_is_left_running(
    tmp_path: Path, children: list[Child]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for number in range(20):
        write(one / f"{number}.py", f"def f{number}(): pass\n")
    write(two / "lib.ts", "export function lib() {}\n")

    async def scenario() -> None:
        # The real process, with the priority that it gives itself.
        async with a_workspace(one, two, module=MODULE) as (_, index, progress):
            assert index.size == 21
            (symbol,) = index.lookup("lib")
            assert (symbol.path, symbol.language, symbol.kind) == ("lib.ts", "typescript", "function")
            assert progress[0] == Progress("begin", 1)
            assert progress[-1] == Progress("end", 21)
            write(two / "lib.ts", "export function changed() {}\n")
            await until(lambda: index.lookup("changed") and not index.lookup("lib"))
            assert os.getpriority(os.PRIO_PROCESS, children[0].pid) == os.getpriority(os.PRIO_PROCESS, 0) + 10
        assert len(children) == 1
        assert not is_running(children[0].pid)

    asyncio.run(scenario())


def test_an_open_document_goes_over_its_file_until_it_is_closed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "def saved(): pass\n")
    write(tmp_path / ".gitignore", "out.py\n")

    async def scenario() -> None:
        async with a_workspace(tmp_path) as (workspace, index, _):
            workspace.shown(
                Document.of(file.as_uri(), "def draft\udc80(): pass\r\ndef other(): pass", "python")
            )
            await until(lambda: index.lookup("other") and not index.lookup("saved"))
            write(file, "def elsewhere(): pass\n")
            workspace.shown(Document.of("untitled:Untitled-1", "def unsaved(): pass\n", "python"))
            workspace.shown(Document.of((tmp_path / "out.py").as_uri(), "def out(): pass\n", "python"))
            workspace.shown(Document.of((tmp_path / ".env").as_uri(), "def secret(): pass\n", "python"))
            await until(lambda: index.lookup("unsaved") and workspace.is_excluded(str(tmp_path / "out.py")))
            assert not workspace.is_excluded(str(file))
            assert [index.lookup(name) for name in ("elsewhere", "out", "secret")] == [(), (), ()]
            workspace.closed(file.as_uri())
            workspace.closed("untitled:Untitled-1")
            await until(lambda: index.lookup("elsewhere") and not index.lookup("other"))
            assert not index.lookup("unsaved")

    asyncio.run(scenario())


def test_what_becomes_secret_or_ignored_is_forgotten_whether_it_is_open_or_not(tmp_path: Path) -> None:
    for name in ("closed_plans", "plans", "draft"):
        write(tmp_path / f"{name}.py", f"def {name}(): pass\n")

    async def scenario() -> None:
        async with a_workspace(tmp_path) as (workspace, index, _):
            for name in ("plans", "draft"):
                file = tmp_path / f"{name}.py"
                workspace.shown(Document.of(file.as_uri(), f"def open_{name}(): pass\n", "python"))
            await until(lambda: index.lookup("open_plans") and index.lookup("open_draft"))
            workspace.configure((tmp_path,), Settings(secret_files=("*plans.py",)), "key")
            assert not index.lookup("open_plans")
            assert not index.lookup("closed_plans")
            await workspace.settled()
            write(tmp_path / ".gitignore", "draft.py\n")
            await until(lambda: workspace.is_excluded(str(tmp_path / "draft.py")))
            assert index.size == 0
            (tmp_path / ".gitignore").unlink()
            await until(lambda: index.lookup("open_draft"))
            assert not workspace.is_excluded(str(tmp_path / "draft.py"))

    asyncio.run(scenario())


def test_a_process_that_is_killed_is_replaced_and_what_was_known_stays(
    tmp_path: Path, children: list[Child], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with a_workspace(tmp_path) as (workspace, index, _):
            workspace.shown(Document.of("untitled:Untitled-1", "def unsaved(): pass\n", "python"))
            await until(lambda: index.lookup("unsaved"))
            os.kill(children[0].pid, signal.SIGKILL)
            await until(lambda: len(children) == 2)
            assert index.lookup("first")
            assert index.lookup("unsaved")
            write(tmp_path / "b.py", "def second(): pass\n")
            await until(lambda: index.lookup("second"))
            assert str(tmp_path) not in caplog.text

    asyncio.run(scenario())


def test_a_file_that_crashes_the_parser_or_hangs_it_is_left_out_and_the_rest_is_read(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("umbrella_lsp.workspace.client.HANG_S", 0.5)
    for number, word in enumerate(("fine", "CRASH", "fine", "HANG", "fine")):
        write(tmp_path / f"{number}.py", f"def f{number}(): {word}\n")

    async def scenario() -> None:
        async with a_workspace(tmp_path) as (workspace, index, progress):
            assert [number for number in range(5) if index.lookup(f"f{number}")] == [0, 2, 4]
            assert [report.state for report in progress].count("end") == 1
            workspace.shown(Document.of((tmp_path / "0.py").as_uri(), "def CRASH(): pass\n", "python"))
            await until(lambda: len(children) == 6)
            write(tmp_path / "5.py", "def f5(): fine\n")
            await until(lambda: index.lookup("f5"))
        assert len(children) == 6  # Two that crash at a file are enough, and one that hangs.
        assert "hangs" in caplog.text
        assert str(tmp_path) not in caplog.text

    asyncio.run(scenario())


def test_a_process_that_ends_again_and_again_is_given_up(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("umbrella_lsp.workspace.client.MAX_RESTARTS", 2)

    async def scenario() -> None:
        async with a_workspace(tmp_path, module="tests.umbrella_lsp.workspace.files") as (_, index, progress):
            assert len(children) == 3
            assert index.size == 0
            assert progress == []
            assert "restart the server" in caplog.text

    asyncio.run(scenario())


def test_what_is_too_much_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        write(tmp_path / f"{number}.py", f"def f{number}(): pass\n")

    async def scenario() -> None:
        async with a_workspace(tmp_path, settings=Settings(max_files=3)) as (_, index, _progress):
            assert index.size == 3
            write(tmp_path / "folder" / "a.py", "")
            write(tmp_path / "0.py", "def changed(): pass\n")
            await until(lambda: index.lookup("changed"))
        assert caplog.text.count("umbrella.max_files") == 1

    asyncio.run(scenario())


def test_without_folders_nothing_is_known_and_no_process_runs(tmp_path: Path, children: list[Child]) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with a_workspace(tmp_path) as (workspace, index, _):
            assert index.size == 1
            workspace.configure((), Settings(), "key")
            assert index.size == 0
            await until(lambda: not is_running(children[0].pid))
            workspace.configure((tmp_path,), Settings(), "key")
            await until(lambda: index.size == 1)

    asyncio.run(scenario())


def test_an_engine_gets_the_workspaces_text_and_no_secrets(tmp_path: Path) -> None:
    shelf = write(tmp_path / "shelf.py", "class Shelf: ...\n")
    write(tmp_path / "secrets.py", "PASSWORD = 'x'\n")

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="umb-") as folder, running(Path(folder) / "run") as engine:
            async with a_workspace(tmp_path) as (workspace, _, _progress):
                workspace.reached(Endpoint(socket=Path(folder) / "run" / "engine.sock"))
                await until(engine.pushed.qsize)
                push = engine.pushed.get_nowait()
        assert push["workspace"] == "key"
        assert push["documents"] == [{"path": digest(str(shelf)), "text": "class Shelf: ...\n"}]

    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def all_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
