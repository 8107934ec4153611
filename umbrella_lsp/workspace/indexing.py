"""Keeps a server told of what a workspace's files define: the work of the process beside it.

Knows what to look at and when; what may block is done by `disk`.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Literal

from umbrella_lsp.document import language_of
from umbrella_lsp.index import Packed, pack
from umbrella_lsp.names import shown_path
from umbrella_lsp.syntax.tree import Outline
from umbrella_lsp.workspace.disk import Disk
from umbrella_lsp.workspace.ignore import IGNORE_FILES
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
from umbrella_lsp.workspace.pushing import Pusher
from umbrella_lsp.workspace.reading import MAX_FILE_BYTES, is_source, read_source, stamp_of
from umbrella_lsp.workspace.symbols import symbols_of
from umbrella_lsp.workspace.walk import Walk, is_listable, is_too_broad, is_walked, rules_in

PAUSE_S = 1.0
"""Between two passes over the workspace: what makes directories makes many."""
MANY_CHANGES = 1_000
"""After so many at once there is a pass: the system may have dropped others, and does not say so here."""
LOOK_OUT_S = 5.0
"""Between two looks at where a workspace folder is not, or not yet."""


class Indexer:
    """Reads what it is configured to, and tells `send`. Used from one event loop."""

    def __init__(
        self,
        send: Callable[[ChildMessage], None],
        disk: Disk,
        outline: Callable[[str, str], Outline],
    ) -> None:
        self._send = send
        self._disk = disk
        self.pusher = Pusher(self.text_of)
        self._outline = outline
        self._options = Configure((), "", 0, (), "", {}, ())
        self._known = dict[str, int]()
        """Files the server has been told of, and their stamps."""
        self._walked = Walk(self._options)
        """The last whole pass."""
        self._present = set[str]()
        """Files that the present pass has met with, or that were read since it began."""
        self._again = asyncio.Event()
        """Another pass is called for."""
        self._errands = asyncio.Queue[Look | Shown]()

    def configure(self, options: Configure) -> None:
        """Read that from now on."""
        self._options = options
        self._known = options.known | self._known
        self._again.set()

    async def run(self) -> None:
        """Pass over the workspace, and then follow what changes, until cancelled."""
        await self._again.wait()
        while True:
            self._again.clear()
            options = self._options
            await self._pass()
            if not self._again.is_set():
                await self._follow(tuple(self._walked.directories))
            if self._options is options:
                await asyncio.sleep(PAUSE_S)

    def take(self, errand: Look | Shown) -> None:
        """Do that soon."""
        self._errands.put_nowait(errand)

    async def run_errands(self) -> None:
        """Do what was taken, one after the other, until cancelled."""
        while True:
            match await self._errands.get():
                case Look(path):
                    await self._look_at(path)
                    if path not in self._known:
                        self._send(Gone(path))
                case Shown(path) as shown:
                    if path not in self._options.skipped:
                        await self._disk.tell(path, partial(self._outlined, shown))

    async def await_roots(self) -> None:
        """Call for a pass whenever a workspace folder has come that the last one missed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_OUT_S)
            for root in self._walked.missing:
                if await self._disk.do(root, partial(is_listable, root)):
                    self._again.set()

    async def text_of(self, path: str) -> str | None:
        """What a file says; None if it is gone, or none of those that count any more."""
        if path not in self._known or not is_source(path, self._options.secret_files):
            return None
        return await self._disk.do(path, partial(read_source, path))

    async def _pass(self) -> None:
        """Look at every directory, read what is new or has changed, and forget what is no more."""
        options = self._options
        self.pusher.configure(options.key, self._known)
        self._present.clear()
        walk = Walk(options, await self._roots(options))
        while (directory := walk.next()) is not None:
            for found in await self._disk.do(directory, partial(walk.list, directory)):
                if self._options is not options:
                    return
                self._present.add(found.path)
                if self._known.get(found.path) != found.stamp:
                    await self._read(found.path, found.stamp)
        if self._options is not options:
            return
        self._walked = walk
        for path in self._known.keys() - self._present:
            self._forget(path)
        if walk.is_cut_short:
            self._send(Noted("left out"))
        self._send(Settled())

    async def _roots(self, options: Configure) -> tuple[str, ...]:
        """Those workspace folders that are worth a pass."""
        roots = list[str]()
        for root in options.roots:
            if root in options.skipped:
                continue
            if await self._disk.do(root, partial(is_too_broad, root)):
                self._send(Noted("too broad"))
            else:
                roots.append(root)
        return tuple(roots)

    async def _follow(self, watched: tuple[str, ...]) -> None:
        """Look at what changes in the directories `watched`, until another pass is called for."""
        if WATCHES in self._options.skipped:
            self._send(Noted("unwatched"))
        if not watched or WATCHES in self._options.skipped:
            await self._again.wait()
            return
        # What the process is slow to import, the first files need not wait for.
        from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType]

        async def catch_up() -> None:
            await self._pass()
            if self._walked.directories.keys() != set(watched):
                self._again.set()

        # Its first step comes after that of `awatch`, which sets the watches: nothing falls between.
        catching_up = asyncio.create_task(catch_up())
        self._send(At(WATCHES))
        changes = awatch(
            *watched,
            recursive=False,
            watch_filter=None,
            stop_event=self._again,
            ignore_permission_denied=True,
        )
        try:
            async with aclosing(changes):
                async for batch in changes:
                    for kind, path in sorted(batch):
                        await self._look_at(path, is_deleted=kind == Change.deleted)
                    if len(batch) >= MANY_CHANGES:
                        self._again.set()
        except FileNotFoundError:  # A directory has gone between being listed and being watched.
            self._again.set()
        except (OSError, RuntimeError):
            self._send(Noted("unwatched"))
            await self._again.wait()
        finally:
            await catching_up

    async def _look_at(self, path: str, *, is_deleted: bool = False) -> None:
        """Take in that something has become of `path`. The disk says what: there may have been more since."""
        if Path(path).name in IGNORE_FILES:
            self._again.set()
        elif path in self._walked.directories:
            if is_deleted:  # With its watch, even if there is another one by now.
                self._again.set()
        else:
            seen = await self._disk.do(path, partial(self._see, path))
            if seen == "directory":
                self._again.set()
            elif seen is None:
                if path in self._known:
                    self._forget(path)
            else:  # Even with a stamp that is known: clocks of file systems tick slowly.
                await self._read(path, seen)

    def _see(self, path: str) -> int | Literal["directory"] | None:
        """The stamp of a file that counts, or that there is a directory that does."""
        options = self._options
        rules = self._walked.directories.get(os.path.dirname(path))  # noqa: PTH120  # as it was listed
        if rules is None or path in options.skipped:
            return None
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            return None
        if stat.S_ISDIR(status.st_mode):
            return "directory" if is_walked(path, rules) else None
        counts = (
            stat.S_ISREG(status.st_mode)
            and is_source(path, options.secret_files)
            and status.st_size <= MAX_FILE_BYTES
            and not rules.exclude(path, is_directory=False)
            and (path in self._known or len(self._known) < options.max_files)
        )
        return stamp_of(status) if counts else None

    async def _read(self, path: str, stamp: int) -> None:
        await self._disk.tell(path, partial(self._indexed, path, stamp))
        self._known[path] = stamp
        self._present.add(path)
        self.pusher.touched(path)

    def _forget(self, path: str) -> None:
        self._known.pop(path, None)
        self._present.discard(path)
        self._send(Gone(path))
        self.pusher.touched(path)

    def _indexed(self, path: str, stamp: int) -> Indexed:
        """What a file defines."""
        source = read_source(path)
        symbols = Packed() if source is None else self._pack(path, source, language_of(path))
        return Indexed(path, stamp, symbols)

    def _outlined(self, message: Shown) -> Outlined:
        """What an open document defines."""
        if self._is_excluded(message.path):
            return Outlined(message.path, Packed(), is_excluded=True)
        symbols = self._pack(message.path, message.text, message.language)
        return Outlined(message.path, symbols, is_excluded=False)

    def _is_excluded(self, path: str) -> bool:
        """Whether a file of the workspace is one that its rules leave out."""
        if not any(Path(path).is_relative_to(root) for root in self._options.roots):
            return False
        directory = str(Path(path).parent)
        rules = self._walked.directories.get(directory) or rules_in(directory, self._options.roots)
        return rules is None or rules.exclude(path, is_directory=False)

    def _pack(self, path: str, source: str, language: str) -> Packed:
        shown = shown_path(path, tuple(map(Path, self._options.roots)))
        definitions = self._outline(source, language).definitions
        return pack(symbols_of(shown, source, language, definitions))
