"""What the server is told follows what happens on disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from tests.umbrella_lsp.waiting import until
from tests.umbrella_lsp.workspace.files import write
from umbrella_lsp.syntax.tree import outline
from umbrella_lsp.workspace.disk import Disk
from umbrella_lsp.workspace.indexing import MANY_CHANGES, Indexer
from umbrella_lsp.workspace.messages import (
    WATCHES,
    At,
    ChildMessage,
    Configure,
    Gone,
    Indexed,
    Look,
    Noted,
    Outlined,
    Settled,
    Shown,
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbrella_lsp.workspace.indexing.PAUSE_S", 0.01)


class Told:
    """A server that keeps what it is told, and the process it is told by."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}
        """What each file defines."""
        self.stamps: dict[str, int] = {}
        self.outlined: list[Outlined] = []
        self.notes: list[str] = []
        self.settled = 0
        self.at = ""
        self.indexer = Indexer(self.take, Disk(self.take), outline)

    def take(self, message: ChildMessage) -> None:
        match message:
            case At(path):
                self.at = path
            case Indexed(path, stamp, symbols):
                self.names[path] = set(symbols.names)
                self.stamps[path] = stamp
            case Gone(path):
                self.names.pop(path, None)
            case Outlined():
                self.outlined.append(message)
            case Settled():
                self.settled += 1
            case Noted(what):
                self.notes.append(what)

    @property
    def all(self) -> set[str]:
        return set[str]().union(*self.names.values())

    def configure(
        self, *roots: Path, secret_files: tuple[str, ...] = (), skipped: tuple[str, ...] = ()
    ) -> None:
        self.indexer.configure(
            Configure(tuple(map(str, roots)), "", 100, secret_files, "", dict(self.stamps), skipped)
        )


@asynccontextmanager
async def told_of(*roots: Path, skipped: tuple[str, ...] = ()) -> AsyncGenerator[Told]:
    """What is told of these folders, once all of it has been read and changes are followed."""
    told = Told()
    told.configure(*roots, skipped=skipped)
    indexer = told.indexer
    works = indexer.run(), indexer.run_errands(), indexer.await_roots()
    running = [asyncio.create_task(work) for work in works]
    try:
        await until(lambda: told.settled >= 2 or (told.settled and told.notes))
        yield told
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError):
                await task


def test_files_are_followed_as_they_come_change_and_go(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            assert told.all == {"first"}
            write(tmp_path / "a.py", "def second(): pass\n")
            await until(lambda: told.all == {"second"})
            write(tmp_path / "package" / "deep" / "b.py", "def third(): pass\n")
            await until(lambda: told.all == {"second", "third"})
            write(tmp_path / "package" / "deep" / "b.py", "def fourth(): pass\n")
            await until(lambda: told.all == {"second", "fourth"})
            (tmp_path / "a.py").unlink()
            await until(lambda: told.all == {"fourth"})
            shutil.rmtree(tmp_path / "package")
            await until(lambda: told.all == set())
            assert told.at == ""
            assert told.notes == []

    asyncio.run(scenario())


def test_a_file_that_is_replaced_by_another_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            write(tmp_path / "a.py.tmp", "def other(): pass\n").rename(tmp_path / "a.py")
            await until(lambda: told.all == {"other"})

    asyncio.run(scenario())


def test_ignore_files_are_obeyed_as_they_change(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")
    write(tmp_path / "out" / "b.py", "def second(): pass\n")

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            assert told.all == {"first", "second"}
            write(tmp_path / ".umbrellaignore", "out/\n")
            await until(lambda: told.all == {"first"})
            write(tmp_path / "out" / "c.py", "def third(): pass\n")
            (tmp_path / ".umbrellaignore").unlink()
            await until(lambda: told.all == {"first", "second", "third"})

    asyncio.run(scenario())


def test_folders_and_patterns_can_change(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one / "a.py", "def first(): pass\n")
    write(two / "b.py", "def second(): pass\n")
    write(two / "inner.py", "def third(): pass\n")

    async def scenario() -> None:
        async with told_of(one) as told:
            assert told.all == {"first"}
            told.configure(one, two)
            await until(lambda: told.all == {"first", "second", "third"})
            told.configure(two, secret_files=("inner*",))
            await until(lambda: told.all == {"second"})

    asyncio.run(scenario())


def test_what_the_server_knows_already_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with told_of(tmp_path) as before:
            pass
        write(tmp_path / "b.py", "def second(): pass\n")
        told = Told()
        told.stamps = before.stamps
        told.configure(tmp_path)
        running = asyncio.create_task(told.indexer.run())
        await until(lambda: told.settled)
        assert told.all == {"second"}
        running.cancel()

    asyncio.run(scenario())


def test_a_folder_that_goes_and_comes_back_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbrella_lsp.workspace.indexing.LOOK_OUT_S", 0.01)
    write(tmp_path / "one" / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with told_of(tmp_path / "one", tmp_path / "two") as told:
            write(tmp_path / "two" / "b.py", "def second(): pass\n")
            await until(lambda: told.all == {"first", "second"})
            shutil.rmtree(tmp_path / "one")
            await until(lambda: told.all == {"second"})
            write(tmp_path / "one" / "a.py", "def third(): pass\n")
            await until(lambda: told.all == {"second", "third"})

    asyncio.run(scenario())


def test_the_engine_is_given_only_what_counts_at_that_moment(tmp_path: Path) -> None:
    kept, plans = (str(write(tmp_path / f"{n}.py", f"def {n}(): pass\n")) for n in ("kept", "plans"))

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            assert await told.indexer.text_of(plans) == "def plans(): pass\n"
            told.configure(tmp_path, secret_files=("plans*",))
            assert await told.indexer.text_of(plans) is None  # Before the pass that forgets it.
            write(tmp_path / ".gitignore", "kept.py\n")
            await until(lambda: told.all == set())
            assert await told.indexer.text_of(kept) is None

    asyncio.run(scenario())


def test_an_open_document_defines_what_it_says_unless_it_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "work" / ".gitignore", "out/\n")
    inside, out, outside = (str(tmp_path / name) for name in ("work/a.py", "work/out/b.py", "c.py"))

    async def scenario() -> None:
        async with told_of(tmp_path / "work") as told:
            for path in (inside, out, outside, "untitled:Untitled-1"):
                told.indexer.take(Shown(path, "python", "def draft(): pass\n"))
            await until(lambda: len(told.outlined) == 4)
            assert [message.is_excluded for message in told.outlined] == [False, True, False, False]
            assert [message.symbols.names for message in told.outlined].count(("draft",)) == 3

    asyncio.run(scenario())


def test_a_file_that_is_asked_about_is_told_of_whatever_is_known(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            told.names.clear()
            told.indexer.take(Look(str(file)))
            await until(lambda: told.all == {"first"})
            told.names["elsewhere.py"] = {"old"}
            told.indexer.take(Look("elsewhere.py"))
            await until(lambda: told.all == {"first"})

    asyncio.run(scenario())


def test_a_home_directory_is_not_read_beside_a_project(home: Path, tmp_path: Path) -> None:
    write(home / "private.py", "def private(): pass\n")
    write(tmp_path / "a.py", "def first(): pass\n")

    async def scenario() -> None:
        async with told_of(home, tmp_path) as told:
            assert told.all == {"first"}
            assert set(told.notes) == {"too broad"}

    asyncio.run(scenario())


def refuse(error: Exception) -> Callable[..., object]:
    async def awatch(*_directories: str, **_options: object) -> AsyncGenerator[set[object]]:
        raise error
        yield set()

    return awatch


def test_after_so_many_changes_at_once_that_some_may_be_lost_everything_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.py", "def first(): pass\n")
    flood = asyncio.Event()

    async def awatch(*_directories: str, stop_event: asyncio.Event, **_options: object) -> Any:
        await flood.wait()
        flood.clear()
        yield {(watchfiles.Change.modified, f"/{number}.py") for number in range(MANY_CHANGES)}
        await stop_event.wait()

    monkeypatch.setattr(watchfiles, "awatch", awatch)

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            write(file, "def second_one(): pass\n")
            flood.set()
            await until(lambda: told.all == {"second_one"})

    asyncio.run(scenario())


def test_without_watches_what_was_read_stays_and_saved_files_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.py", "def first(): pass\n")
    monkeypatch.setattr(watchfiles, "awatch", refuse(OSError(28, "No space left on device")))

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            await until(lambda: told.notes == ["unwatched"])
            write(file, "def second(): pass\n")
            told.indexer.take(Look(str(file)))
            await until(lambda: told.all == {"second"})
            told.configure(tmp_path, skipped=(WATCHES,))
            await until(lambda: told.notes == ["unwatched", "unwatched"])

    asyncio.run(scenario())


def test_a_directory_that_vanishes_before_it_is_watched_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.py", "def first(): pass\n")
    awatch, refusals = watchfiles.awatch, [refuse(FileNotFoundError())]

    def refused_once(*directories: str, **options: Any) -> object:
        return (refusals.pop() if refusals else awatch)(*directories, **options)

    monkeypatch.setattr(watchfiles, "awatch", refused_once)

    async def scenario() -> None:
        async with told_of(tmp_path) as told:
            assert not refusals
            await until(lambda: told.settled >= 4)
            write(file, "def second(): pass\n")
            await until(lambda: told.all == {"second"})

    asyncio.run(scenario())
