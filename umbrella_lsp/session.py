"""Everything that answers one client's requests, put together: completer, syntax, workspace, engine, counts.

Importing this imports what takes time, so a server does it after it has answered `initialize`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from engine.client import Endpoint, EngineClient
from engine.launch import ensure_engine
from umbrella_lsp.acceptance import Offer, Watcher
from umbrella_lsp.activity import Activity
from umbrella_lsp.completer import Completer
from umbrella_lsp.document import Document, Edit, path_of
from umbrella_lsp.errors import EngineUnavailable, UmbrellaError
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.link import EngineLink
from umbrella_lsp.names import workspace_key
from umbrella_lsp.outcome import Outcome
from umbrella_lsp.pace import Speed, Speedometer
from umbrella_lsp.settings import Settings
from umbrella_lsp.syntax.client import SyntaxClient
from umbrella_lsp.tally import Tally, user_file
from umbrella_lsp.workspace.client import Progress, Workspace

ASK_EVERY_S = 0.5
"""How often a loading engine is asked how fast it will be."""


class Session:
    """One client's completer and what runs behind it. Used from one event loop."""

    def __init__(
        self,
        settings: Settings,
        roots: tuple[Path, ...],
        tell: Callable[[str], None],
        better: Callable[[str], None],
        progress: Callable[[Progress], None],
    ) -> None:
        """Read the workspace and look for the engine from now on.

        `tell` shows the user a sentence, `better` is told of a document that it is worth asking again about,
        and `progress` how far the reading of the workspace is.
        """
        self._settings = settings
        self._tell = tell
        self._index = SymbolIndex()
        self._activity = Activity()
        self._syntax = SyntaxClient()
        self._workspace = Workspace(self._index, progress)
        self._speed = Speedometer()
        self._link = EngineLink(self._find, self._reached)
        self._tally = Tally(None)
        self._watcher = Watcher(self._tally.add)
        self.completer = Completer(
            self._link,
            self._syntax,
            index=self._index,
            activity=self._activity,
            speed=self._speed,
            rate=self._tally.acceptance_rate,
            better=better,
        )
        self._tasks = {asyncio.create_task(self._tally.run())}
        self._has_greeted = False
        self.configure(settings, roots)

    def configure(self, settings: Settings, roots: tuple[Path, ...]) -> None:
        """Use other settings or folders from now on."""
        self._settings = settings
        self.completer.configure(settings, roots)
        self._activity.configure(self._is_excluded)
        self._tally.configure(user_file() if settings.statistics else None)
        is_read = settings.enabled and settings.workspace
        self._workspace.configure(roots if is_read else (), settings, workspace_key(roots))
        if settings.enabled and not self._has_greeted:
            # So that the engine has loaded by the time of the first request.
            self._has_greeted = True
            self._start(self._greet())

    def opened(self, document: Document) -> None:
        """A document was opened."""
        self._activity.opened(document)
        self._workspace.shown(document)
        self._start(self._parse(document))

    def changed(self, before: Document, edits: Sequence[Edit], after: Document) -> None:
        """`edits` have made `after` of `before`."""
        self._watcher.changed(before, edits, after)
        self._activity.changed(after, edits)
        self._workspace.shown(after)
        self.completer.changed(after)

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self._watcher.closed(uri)
        self._activity.closed(uri)
        self._workspace.closed(uri)
        self.completer.closed(uri)

    def saved(self, uri: str) -> None:
        """A document was saved."""
        self._workspace.saved(path_of(uri))

    def viewed(self, document: Document, offset: int) -> None:
        """The cursor stands at `offset`."""
        self._activity.viewed(document, offset)

    def offered(self, name: str, outcome: Outcome) -> None:
        """An answer called `name` is on its way to the user."""
        best, source = outcome.suggestion, outcome.source
        if best is None or source == "none":
            return
        others = tuple(other.text for other in outcome.suggestions[1:])
        replaces = best.end - best.start
        offer = Offer(name, best.text, replaces, others, outcome.tier, source, outcome.confidence)
        self._watcher.offered(outcome.document, best.start, offer)

    def accepted(self, name: str) -> None:
        """The editor says that the answer called `name` was accepted whole."""
        self._watcher.accepted(name)

    async def aclose(self) -> None:
        """Stop reading and counting, and let go of the engine, which lives on by itself."""
        self.completer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watcher.close()
        await asyncio.gather(
            self._tally.save(), self._link.aclose(), self._syntax.aclose(), self._workspace.aclose()
        )

    def _is_excluded(self, path: str) -> bool:
        """Whether prompts must not know of a document."""
        return is_secret(path, self._settings.secret_files) or self._workspace.is_excluded(path)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _parse(self, document: Document) -> None:
        """Have a document parsed before anything is asked about it: the first time takes longest."""
        await self._syntax.at(document, 0)

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

    def _reached(self, endpoint: Endpoint) -> None:
        self._workspace.reached(endpoint)
        self._start(self._learn_speed(endpoint))

    async def _learn_speed(self, endpoint: Endpoint) -> None:
        """Have the engine say how fast it is, as soon as it has loaded."""
        with suppress(EngineUnavailable):  # Its answers will show.
            async with aclosing(EngineClient(endpoint)) as client:
                health = await client.health()
                while health.state in ("starting", "loading"):
                    await asyncio.sleep(ASK_EVERY_S)
                    health = await client.health()
                self._speed.told(Speed(health.pass_ms, health.draft_ms))
