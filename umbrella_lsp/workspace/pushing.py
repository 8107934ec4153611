"""Gives the engine the workspace's text to draft from, behind the user's back.

Knows paths, and an engine once the server has reached one; it never looks for one by itself. What is read
and excluded is decided in `indexing`, which tells it what changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from engine.protocol import WorkspaceDocument, WorkspacePush
from umbrella_lsp.errors import UmbrellaError
from umbrella_lsp.names import digest
from umbrella_lsp.workspace.messages import Reached

if TYPE_CHECKING:
    from engine.client import Endpoint, EngineClient

SETTLE_S = 0.3
"""Wait for so long before a push: files change in groups, and are found one after the other."""
MOST_PENDING = 20_000
"""Paths that wait for an engine. Beyond that, only files that it has had are looked at again."""
BATCH_CHARS = 500_000
"""Text in one push, about."""


class Pusher:
    """Keeps what the engine holds of one workspace in step with its files. Used from one event loop.

    `read` gives a file's text, or None if it is gone or none. An engine is told by its process: one that was
    restarted gets everything anew.
    """

    def __init__(self, read: Callable[[str], Awaitable[str | None]]) -> None:
        self._read = read
        self._workspace = ""
        self._endpoint: Reached | None = None
        self._holder: tuple[Endpoint, int, str] | None = None
        """The engine, its process and the key under which it has everything but what is pending."""
        self._known = dict[str, None]()
        """Files that could be read when they were last looked at."""
        self._pending = dict[str, None]()
        """Paths to look at, those touched first first."""
        self._wake = asyncio.Event()

    def configure(self, workspace: str, files: Iterable[str]) -> None:
        """Use that key from now on, '' pushes nothing, and push `files` at least."""
        self._workspace = workspace
        for file in files:
            if file not in self._known:
                self.touched(file)
        self._wake.set()

    def reached(self, endpoint: Reached) -> None:
        """An engine answers at `endpoint`."""
        self._endpoint = endpoint
        self._wake.set()

    def touched(self, path: str) -> None:
        """A file came or changed, or is none of the workspace's any more."""
        if len(self._pending) < MOST_PENDING or path in self._known:
            self._pending[path] = None
            self._wake.set()

    async def run(self) -> None:
        """Push whatever there is to push, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(SETTLE_S)
            self._wake.clear()
            if self._endpoint is not None and self._workspace:
                await self._push_to(self._endpoint)

    async def _push_to(self, endpoint: Reached) -> None:
        # Not at the top: a command that waits for the nearest files need not wait for this.
        from engine.client import Endpoint, EngineClient

        socket = Path(endpoint.socket) if endpoint.socket else None
        where = Endpoint(socket, endpoint.port, endpoint.token, url=endpoint.url)
        # One that went away is found again by whoever needs it; one that refuses does without.
        with suppress(UmbrellaError):
            async with aclosing(EngineClient(where)) as client:
                await self._push(client, self._workspace)

    async def _push(self, client: EngineClient, workspace: str) -> None:
        """Push what there is to push, in batches."""
        holder = client.endpoint, (await client.health()).pid, workspace
        is_new = holder != self._holder
        if is_new:
            self._pending = self._known | self._pending
        self._holder = None  # Until it has everything.
        while is_new or self._pending:
            documents, removed = await self._next_batch()
            # What went was mostly not pushed.
            if documents or removed or is_new:
                await client.push_workspace(WorkspacePush(workspace, documents, removed, clear=is_new))
            is_new = False
        self._holder = holder

    async def _next_batch(self) -> tuple[tuple[WorkspaceDocument, ...], tuple[str, ...]]:
        """Documents that came or changed and names of those that went, of the paths touched first."""
        documents, removed, chars = list[WorkspaceDocument](), list[str](), 0
        while self._pending and chars < BATCH_CHARS:
            path = next(iter(self._pending))
            del self._pending[path]
            text = await self._read(path)
            if text is not None:
                self._known[path] = None
                documents.append(WorkspaceDocument(digest(path), text))
                chars += len(text)
            elif path in self._known:
                del self._known[path]
                removed.append(digest(path))
        return tuple(documents), tuple(removed)
