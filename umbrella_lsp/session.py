"""Everything that answers one client's requests, put together: completer, index, watchers, engine.

Importing this imports what takes time, so a server does it after it has answered `initialize`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from engine.client import Endpoint
from engine.launch import ensure_engine
from umbrella_lsp.completer import Completer, workspace_key
from umbrella_lsp.errors import UmbrellaError
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.link import EngineLink
from umbrella_lsp.push import Pusher
from umbrella_lsp.settings import Settings
from umbrella_lsp.watch import keep_fresh


class Session:
    """One client's completer and what runs behind it. Used from one event loop."""

    def __init__(self, settings: Settings, roots: tuple[Path, ...], tell: Callable[[str], None]) -> None:
        """Read the workspace and look for the engine from now on; `tell` shows the user a sentence."""
        self._settings = settings
        self._tell = tell
        self._index = SymbolIndex()
        self._pusher = Pusher()
        self._pushing = asyncio.create_task(self._pusher.run())
        self._link = EngineLink(self._find, self._pusher.reached)
        self._watchers: dict[Path, asyncio.Task[None]] = {}
        self.completer = Completer(self._link, index=self._index, roots=roots, settings=settings)
        self._greeting: asyncio.Task[None] | None = None
        self.configure(settings, roots)

    def configure(self, settings: Settings, roots: tuple[Path, ...]) -> None:
        """Use other settings or folders from now on."""
        self._settings = settings
        self.completer.configure(settings, roots)
        watched = roots if settings.enabled and settings.workspace else ()
        for root in self._watchers.keys() - set(watched):
            self._watchers.pop(root).cancel()
            self._index.remove_under(str(root))
            self._pusher.touched(str(root))
        for root in set(watched) - self._watchers.keys():
            self._watchers[root] = asyncio.create_task(keep_fresh(self._index, root, self._pusher.touched))
        self._pusher.configure(workspace_key(roots))
        if settings.enabled and self._greeting is None:
            # So that the engine has loaded by the time of the first request.
            self._greeting = asyncio.create_task(self._greet())

    def saved(self, path: str) -> None:
        """A document was saved or closed."""
        self._pusher.saved(path)

    async def aclose(self) -> None:
        """Stop watching and let go of the engine, which lives on by itself."""
        tasks = [self._pushing, *self._watchers.values(), *([self._greeting] if self._greeting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.aclose()

    async def _greet(self) -> None:
        try:
            client = await self._link.connect()
        except UmbrellaError as error:
            self._tell(str(error))
            return
        if client.endpoint.notice:
            self._tell(client.endpoint.notice)

    def _find(self) -> Endpoint:
        return ensure_engine(self._settings.engine_config_path)
