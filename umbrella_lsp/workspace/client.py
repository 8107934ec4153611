"""The server's handle on the process that reads the workspace, and the one writer of the symbol index.

Knows no file system: what may block, crash or hang does so in the process, which is then replaced, and goes
on with what it was at left out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from umbrella_lsp.child import Child, ChildGone
from umbrella_lsp.document import Document, path_of
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.index import Packed, SymbolIndex
from umbrella_lsp.settings import Settings
from umbrella_lsp.workspace.messages import (
    IN_BACKGROUND,
    At,
    ChildMessage,
    Configure,
    Gone,
    Indexed,
    Look,
    Noted,
    Outlined,
    Reached,
    ServerMessage,
    Settled,
    Shown,
    ToChild,
    ToServer,
)
from umbrella_lsp.workspace.reading import can_be_sent

if TYPE_CHECKING:
    from engine.client import Endpoint

MODULE = "umbrella_lsp.workspace"
HANG_S = 10.0
"""A process that is at something and says nothing for so long hangs."""
TICK_S = 1.0
MAX_RESTARTS = 20
ENOUGH = 2
"""So often may a process crash at a file or a directory: once may have had other reasons, such as memory."""
MAX_SHOWN_CHARS = 200_000
"""Open documents that are longer have no symbols, as files have none."""
SHOW_EVERY_S = 1.0
"""A document that changes at every key is looked through so often."""
REPORT_EVERY_S = 0.5

_NOTES = {
    "left out": "the workspace has more files than umbrella.max_files: the nearest are read. To have others "
    "read, raise it or name folders to leave out in .umbrellaignore",
    "too broad": "a workspace folder is a home directory, or holds one, and is not read. "
    "To have definitions of other files suggested, open a project's folder",
    "unwatched": "files that others than the editor change are not noticed, because the system grants no "
    "more watches; on Linux, raise fs.inotify.max_user_watches",
    "full": "the workspace defines more than is kept in memory: of some files nothing is known. "
    "To choose which, name folders in .umbrellaignore",
}

State = Literal["begin", "report", "end"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the reading of the workspace is. After `begin` come any number of `report` and an `end`."""

    state: State
    files: int
    """That have been read."""


class Workspace:
    """One client's workspace folders, read in the background. Used from one event loop."""

    def __init__(
        self,
        index: SymbolIndex,
        progress: Callable[[Progress], None] | None = None,
        *,
        in_background: bool = True,
        module: str = MODULE,
    ) -> None:
        """`index` is written from here alone; `module` is what runs as the process.

        Unless `in_background`, somebody waits for what is read, and it is read as fast as it can be.
        """
        self._index = index
        self._progress = progress
        self._command = (module, IN_BACKGROUND) if in_background else (module,)
        self._wanted = Configure((), "", 0, (), "", {}, ())
        self._files = dict[str, int]()
        """Those that have been read, and their stamps."""
        self._open = dict[str, Document]()
        """By path or, where they are no files, by URI. What they say goes over what the disk says."""
        self._excluded = set[str]()
        """Of those, the ones that the workspace's rules leave out."""
        self._failures = Counter[str]()
        """How often a process has ended at a file or a directory; `ENOUGH` is as often as it may."""
        self._running: asyncio.Task[None] | None = None
        self._tasks = set[asyncio.Task[None]]()
        self._noted = set[str]()
        self._settled = asyncio.Event()
        self._settled.set()
        self._reported_s: float | None = None
        """When progress was reported last; None unless it has begun."""
        # What the process is yet to be told.
        self._news = asyncio.Event()
        self._configure: Configure | None = None
        self._reached: Reached | None = None
        self._endpoint: Reached | None = None
        self._to_look_at = dict[str, None]()
        self._to_show = dict[str, None]()
        # What the process is at.
        self._at = ""
        self._heard = 0
        """Messages so far."""

    def configure(
        self, roots: tuple[Path, ...], settings: Settings, key: str, *, near: Path | None = None
    ) -> None:
        """Read these folders from now on, and push their text to the engine under `key`, '' to push nothing.

        What is in the directory `near` is read first, then what is near to it. Without folders nothing is
        read, and what was read is forgotten.
        """
        wanted = Configure(
            roots=tuple(filter(can_be_sent, map(str, roots))),
            near=str(near) if near else "",
            max_files=settings.max_files,
            secret_files=settings.secret_files,
            key=key,
            known={},
            skipped=(),
        )
        if wanted == self._wanted:
            return
        if wanted.secret_files != self._wanted.secret_files:
            for name in (*self._files, *self._open):
                if is_secret(name, wanted.secret_files):
                    self._index.remove(name)
        self._wanted = wanted
        self._noted.clear()
        if not wanted.roots:
            self._forget()
            return
        self._settled.clear()
        self._index.is_complete = False
        self._configure = wanted
        self._news.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
            self._tasks.add(self._running)
            self._running.add_done_callback(self._tasks.discard)

    def reached(self, endpoint: Endpoint) -> None:
        """An engine answers at `endpoint`."""
        self._endpoint = Reached(str(endpoint.socket or ""), endpoint.port, endpoint.token, endpoint.url)
        self._reached = self._endpoint
        self._news.set()

    def shown(self, document: Document) -> None:
        """A document was opened or has changed: from now on it says what its file defines."""
        name = _name_of(document.uri)
        self._open[name] = document
        if len(document.content) <= MAX_SHOWN_CHARS and not is_secret(name, self._wanted.secret_files):
            self._to_show[name] = None
            self._news.set()
        else:
            self._to_show.pop(name, None)
            self._index.remove(name)

    def closed(self, uri: str) -> None:
        """A document was closed: its file says again what it defines."""
        name = _name_of(uri)
        self._open.pop(name, None)
        self._to_show.pop(name, None)
        self._excluded.discard(name)
        self._files.pop(name, None)
        self._index.remove(name)
        self._to_look_at[name] = None
        self._news.set()

    def saved(self, path: str) -> None:
        """A document was saved: the file, if it is one of the workspace's, may have changed."""
        self._to_look_at[path] = None
        self._news.set()

    def is_excluded(self, path: str) -> bool:
        """Whether `path` is an open file that the workspace's ignore files leave out, as far as is known."""
        return path in self._excluded

    async def settled(self) -> None:
        """Return once everything that there is to read has been read."""
        await self._settled.wait()

    async def aclose(self) -> None:
        """End the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None
        self._files.clear()
        self._excluded.clear()
        self._index.clear()
        self._finish()

    async def _run(self) -> None:
        """Have a process do the work, and another one if it ends."""
        for restarts in range(1 + MAX_RESTARTS):
            self._brief()
            with suppress(ChildGone):
                await self._attend(await Child.start(*self._command))
            if self._at:
                self._failures[self._at] += 1
            _log.warning(
                "the process that reads the workspace has ended, for the %d. time; "
                "%d files or folders at which it did so are left out",
                restarts + 1,
                len(self._skipped()),
            )
        _log.warning("the workspace is read no further; restart the server to try once more")
        self._finish()

    def _skipped(self) -> tuple[str, ...]:
        return tuple(path for path, failures in self._failures.items() if failures >= ENOUGH)

    def _brief(self) -> None:
        """A new process has to be told everything."""
        self._at = ""
        self._configure, self._reached = self._wanted, self._endpoint
        self._show_all()
        self._news.set()

    def _show_all(self) -> None:
        for document in self._open.values():
            self.shown(document)

    async def _attend(self, child: Child) -> None:
        """Exchange messages with a process until it ends. Raises `ChildGone`."""
        beside = [asyncio.create_task(work(child)) for work in (self._write, self._guard)]
        try:
            while True:
                self._take((await child.receive(ToServer)).message)
                await asyncio.sleep(0)  # What is there already comes without a pause.
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            child.kill()  # It has nothing to lose, and of its own accord would end when nobody else runs.
            await child.aclose()

    async def _write(self, child: Child) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            documents = [self._open[name] for name in self._to_show]
            self._to_show.clear()
            for message in self._next_messages():
                await child.send(ToChild(message))
            for document in documents:
                text = str(document.content.normalised())
                await child.send(ToChild(Shown(_name_of(document.uri), document.language, text)))
            if documents:
                await asyncio.sleep(SHOW_EVERY_S)

    def _next_messages(self) -> Iterator[ServerMessage]:
        """What the process is yet to be told, but for the documents."""
        configure, self._configure = self._configure, None
        reached, self._reached = self._reached, None
        paths = tuple(self._to_look_at)
        self._to_look_at.clear()
        if configure:
            yield msgspec.structs.replace(configure, known=self._files, skipped=self._skipped())
        if reached:
            yield reached
        yield from map(Look, paths)

    async def _guard(self, child: Child) -> None:
        """Kill a process that hangs."""
        while True:
            heard, silent_s, waited_s = self._heard, 0.0, _waited_s(child.pid)
            while self._at and self._heard == heard:
                # It runs when nobody else wants to: on a busy machine that takes its time.
                if silent_s - (_waited_s(child.pid) - waited_s) >= HANG_S:
                    _log.warning("the process that reads the workspace hangs and is ended")
                    self._failures[self._at] = ENOUGH
                    child.kill()
                    await child.aclose()  # Even if it cannot be killed: nobody listens to it from now on.
                    return
                # Not the clock: while this process itself was held up, nothing could be heard.
                await asyncio.sleep(TICK_S)
                silent_s += TICK_S
            await asyncio.sleep(TICK_S)

    def _take(self, message: ChildMessage) -> None:
        self._heard += 1
        match message:
            case At(path):
                self._at = path
            case Indexed(path, stamp, symbols):
                self._at = ""
                self._files[path] = stamp
                if path not in self._open:
                    self._store(path, symbols)
                self._report()
            case Outlined(path, symbols, is_excluded):
                self._at = ""
                if path in self._open:
                    self._store(path, symbols)
                    (self._excluded.add if is_excluded else self._excluded.discard)(path)
            case Gone(path):
                self._files.pop(path, None)
                if path not in self._open:
                    self._index.remove(path)
            case Settled():
                self._show_all()  # What is left out may have changed.
                self._finish()
            case Noted(what):
                self._note(what)

    def _store(self, name: str, symbols: Packed) -> None:
        if is_secret(name, self._wanted.secret_files):  # Since a moment ago.
            return
        if not self._index.update(name, symbols):
            self._note("full")

    def _report(self) -> None:
        """Tell how far it is, now and then, while there is a whole workspace to be read."""
        now = time.monotonic()
        if self._settled.is_set() or (self._reported_s and now < self._reported_s + REPORT_EVERY_S):
            return
        self._tell_progress("begin" if self._reported_s is None else "report")
        self._reported_s = now

    def _finish(self) -> None:
        self._settled.set()
        self._index.is_complete = True
        if self._reported_s is not None:
            self._reported_s = None
            self._tell_progress("end")

    def _tell_progress(self, state: State) -> None:
        if self._progress is not None:
            self._progress(Progress(state, len(self._files)))

    def _note(self, what: str) -> None:
        """Say something in the log, once."""
        if what not in self._noted:
            self._noted.add(what)
            _log.warning(_NOTES[what])


def _name_of(uri: str) -> str:
    """What the symbols of a document are kept by: its path, or the URI of what is no file."""
    return path_of(uri) if uri.startswith("file:") else uri


def _waited_s(pid: int) -> float:
    """How long a process's threads have waited for a processor, as far as the system tells."""
    waited_ns = 0
    with suppress(OSError, ValueError, IndexError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # Linux, Documentation/scheduler/sched-stats.rst: time on a processor, waiting for one, turns.
            waited_ns += int((thread / "schedstat").read_text().split()[1])
    return waited_ns / 1e9
