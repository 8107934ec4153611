"""Keeps a `SymbolIndex` in step with the Python files of a workspace folder. Owns all reading of disks.

Each directory is watched by itself and none that `exclude` names, so that a virtual environment of
ten thousand directories costs no watches.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from watchfiles import (
    Change,
    awatch,  # pyright: ignore[reportUnknownVariableType]  # it also accepts trio's events, which have no types here
)

from umbrella_lsp.document import language_of, normalised
from umbrella_lsp.exclude import is_foreign, is_secret
from umbrella_lsp.index import Symbol, SymbolIndex, symbols_of

MAX_DIRECTORIES = 2000
MAX_FILES = 2000
MAX_FILE_BYTES = 200_000
RETRY_S = 0.5

Touched = Callable[[str], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """What of a folder is worth knowing."""

    directories: tuple[Path, ...]
    files: tuple[Path, ...]


def _is_source(path: str) -> bool:
    return language_of(path) == "python" and not is_secret(path)


def list_sources(root: Path) -> Listing:
    """The directories and Python files under `root`, nearest first, up to the limits above."""
    waiting, directories, files = [root], list[Path](), list[Path]()
    while waiting and len(directories) < MAX_DIRECTORIES:
        directory = waiting.pop(0)
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            continue
        directories.append(directory)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if not is_foreign(path):
                    waiting.append(path)
            elif _is_source(entry.name) and len(files) < MAX_FILES:
                files.append(path)
    return Listing(tuple(directories), tuple(files))


def read_source(file: Path) -> str | None:
    """The text of one file; None if it is gone, too large or no text."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return None
        return normalised(file.read_text("utf-8"))
    except (OSError, ValueError):  # Among the latter: no UTF-8, or a name with a zero byte.
        return None


def read_symbols(root: Path, file: Path) -> tuple[Symbol, ...]:
    """The symbols of one file; none if it cannot be read."""
    source = read_source(file)
    # A name that is not UTF-8 holds surrogates, which cannot be sent.
    path = normalised(file.relative_to(root).as_posix())
    return () if source is None else symbols_of(path, source, "python")


async def _refresh(index: SymbolIndex, root: Path, files: Iterable[Path], touched: Touched) -> None:
    for file in files:
        index.update(str(file), await asyncio.to_thread(read_symbols, root, file))
        touched(str(file))


def _is_new_directory(change: Change, path: Path) -> bool:
    return change == Change.added and path.is_dir() and not is_foreign(path)


async def _watch(index: SymbolIndex, root: Path, directories: tuple[Path, ...], touched: Touched) -> None:
    """Apply changes until a directory appears, which needs a watch of its own."""
    async with aclosing(awatch(*directories, recursive=False, watch_filter=None)) as notices:
        async for changes in notices:
            for change, path in changes:
                if change == Change.deleted:
                    index.remove_under(path)
                    touched(path)
            sources = [Path(p) for c, p in changes if c != Change.deleted and _is_source(p)]
            await _refresh(index, root, sources, touched)
            if any(_is_new_directory(change, Path(path)) for change, path in changes):
                return


async def keep_fresh(index: SymbolIndex, root: Path, touched: Touched) -> None:
    """Fill `index` from the files under `root` and keep it so, until cancelled.

    `touched` is called with the path of every source file as it is found or changes, and with that of
    whatever goes, a directory included. Where the system grants no watches, what was read at first stays
    and a warning says so.
    """
    while True:
        listing = await asyncio.to_thread(list_sources, root)
        if not listing.directories:
            return
        # The first step of `_watch` sets the watches, before the scan's first step: nothing falls between.
        scan = asyncio.create_task(_refresh(index, root, listing.files, touched))
        try:
            await _watch(index, root, listing.directories, touched)
        except FileNotFoundError:
            # A directory went away between being listed and being watched. Whatever removes directories
            # may not be done, so this waits before it lists them again.
            await asyncio.sleep(RETRY_S)
        except (OSError, RuntimeError) as error:
            _log.warning(
                "changed files are not noticed, because the workspace cannot be watched (%s); "
                "if the system's limit is reached, raise fs.inotify.max_user_watches",
                type(error).__name__,
            )
            await scan
            return
        finally:
            scan.cancel()
