"""The index follows what happens on disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.umbrella_lsp.waiting import until
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.watch import MAX_FILE_BYTES, Listing, keep_fresh, list_sources, read_symbols


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_index_follows_files_as_they_come_change_and_go(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")
    index, touched = SymbolIndex(), list[str]()

    async def scenario() -> None:
        watching = asyncio.create_task(keep_fresh(index, tmp_path, touched.append))
        await until(lambda: index.lookup("first"))
        write(tmp_path / "a.py", "def second(): pass\n")
        await until(lambda: index.lookup("second") and not index.lookup("first"))
        write(tmp_path / "package" / "b.py", "def third(): pass\n")
        await until(lambda: index.lookup("third"))
        write(tmp_path / "package" / "b.py", "def fourth(): pass\n")
        await until(lambda: index.lookup("fourth"))
        assert {str(tmp_path / "a.py"), str(tmp_path / "package" / "b.py")} <= {*touched}
        touched.clear()
        (tmp_path / "a.py").unlink()
        await until(lambda: not index.lookup("second"))
        assert str(tmp_path / "a.py") in touched
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(scenario())


def test_environments_caches_hidden_and_secret_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "env-by-content" / "pyvenv.cfg", "")
    for folder in (".git", ".venv", "venv", "node_modules", "__pycache__", "env-by-content", "kept/deep"):
        write(tmp_path / folder / "a.py", "x = 1\n")
    write(tmp_path / "secrets.py", "x = 1\n")
    write(tmp_path / "notes.txt", "x = 1\n")
    listing = list_sources(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in listing.files] == ["kept/deep/a.py"]


def test_links_are_not_followed_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "kept" / "a.py", "x = 1\n")
    (tmp_path / "kept" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(list_sources(tmp_path).files) == 1


def test_a_file_that_is_too_large_or_no_text_has_no_symbols(tmp_path: Path) -> None:
    write(tmp_path / "large.py", "def f(): pass\n" * MAX_FILE_BYTES)
    (tmp_path / "binary.py").write_bytes(b"def f(): pass\n\xff\n")
    assert read_symbols(tmp_path, tmp_path / "large.py") == ()
    assert read_symbols(tmp_path, tmp_path / "binary.py") == ()
    assert read_symbols(tmp_path, tmp_path / "gone.py") == ()


def test_a_name_that_is_not_utf_8_gives_a_path_that_can_be_sent(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.py")
    write(file, "def f(): pass\n")
    assert [symbol.path for symbol in read_symbols(tmp_path, file)] == ["caf\N{REPLACEMENT CHARACTER}.py"]


def test_a_directory_that_vanishes_before_it_is_watched_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")
    vanished = Listing((tmp_path, tmp_path / "gone"), (tmp_path / "a.py",))
    listings = [vanished]
    monkeypatch.setattr("umbrella_lsp.watch.RETRY_S", 0)
    monkeypatch.setattr(
        "umbrella_lsp.watch.list_sources", lambda root: listings.pop() if listings else list_sources(root)
    )
    index, touched = SymbolIndex(), list[str]()

    async def scenario() -> None:
        watching = asyncio.create_task(keep_fresh(index, tmp_path, touched.append))
        await until(lambda: index.lookup("first"))
        write(tmp_path / "a.py", "def second(): pass\n")
        await until(lambda: index.lookup("second"))
        assert not listings
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(scenario())


def test_without_watches_what_was_read_stays_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.py", "def first(): pass\n")

    async def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("umbrella_lsp.watch._watch", refuse)
    index, touched = SymbolIndex(), list[str]()
    asyncio.run(keep_fresh(index, tmp_path, touched.append))
    assert index.lookup("first")
    assert "fs.inotify.max_user_watches" in caplog.text


def test_a_folder_that_is_not_there_ends_the_watch(tmp_path: Path) -> None:
    touched = list[str]()
    asyncio.run(keep_fresh(SymbolIndex(), tmp_path / "gone", touched.append))
    assert touched == []


@pytest.mark.parametrize(
    "path", ["/a/.env", ".env.local", "/x/prod.env", "id_rsa", "a/.ssh/config", "Server.PEM"]
)
def test_files_that_hold_secrets_are_known_by_name(path: str) -> None:
    assert is_secret(path)


@pytest.mark.parametrize("path", ["/a/environment.py", "keyboard.py", "/home/me/env/main.py"])
def test_other_files_are_no_secrets(path: str) -> None:
    assert not is_secret(path)
