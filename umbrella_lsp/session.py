"""Everything that answers one client's requests, put together: completer, syntax, workspace, engine, counts.

Importing this imports what takes time, so a server does it after it has answered `initialize`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol

from engine.client import Endpoint, EngineClient
from engine.errors import EngineGone
from engine.launch import unload_engine
from engine.protocol import Health
from umbrella_lsp import engines
from umbrella_lsp.acceptance.tally import Tally, user_file
from umbrella_lsp.acceptance.watcher import Offer, Said, Watcher
from umbrella_lsp.activity import Activity
from umbrella_lsp.completer import Completer
from umbrella_lsp.document import Document, Edit, path_of
from umbrella_lsp.errors import EngineLost, EngineUnavailable, InputError, RequestError, UmbrellaError
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.link import EngineLink, Failed, Found, Gone, LinkEvent, Looking, Streams
from umbrella_lsp.names import workspace_key
from umbrella_lsp.outcome import Outcome
from umbrella_lsp.pace import Speed, Speedometer
from umbrella_lsp.settings import Settings
from umbrella_lsp.status import (
    Answered,
    Chosen,
    Ended,
    Event,
    Missing,
    Noticed,
    Seen,
    Sought,
    Status,
    StatusBoard,
    Working,
)
from umbrella_lsp.syntax.client import SyntaxClient
from umbrella_lsp.workspace.client import Progress, Workspace

ASK_EVERY_S = 0.5
"""How often a loading engine is asked how far it is."""
BUSY_AFTER_S = 0.15
"""How long a text is in the making before that is worth showing."""
_NOT_OURS = (
    "The engine that the setting umbrella.engine.url names is not this editor's to unload. Do that where it "
    "was started."
)


class Listener(Protocol):
    """Who is told what the user should know; `editor.Editor` is one."""

    def say(self, message: str, *, is_error: bool = False) -> None:
        """Show the user a sentence."""
        ...

    def say_once(self, message: str) -> None:
        """Show the user a sentence, unless they have seen it."""
        ...

    def status(self, status: Status) -> None:
        """The engine's state is another one than before."""
        ...

    def refresh(self, uri: str) -> None:
        """There is more for a document than its last answer said."""
        ...

    def reading(self, progress: Progress) -> None:
        """How far the workspace is read."""
        ...


class Session:
    """One client's completer and what runs behind it. Used from one event loop."""

    def __init__(self, settings: Settings, roots: tuple[Path, ...], editor: Listener) -> None:
        """Read the workspace and look for the engine from now on."""
        self._settings = settings
        self._editor = editor
        self._board = StatusBoard()
        self._numbers = itertools.count(1)
        self._index = SymbolIndex()
        self._activity = Activity()
        self._syntax = SyntaxClient()
        self._workspace = Workspace(self._index, editor.reading)
        self._speed = Speedometer()
        self._link = EngineLink(self._find, self._heard)
        self._tally = Tally(None)
        self._watcher = Watcher(self._tally.add)
        self.completer = Completer(
            self._link,
            self._syntax,
            index=self._index,
            activity=self._activity,
            speed=self._speed,
            rate=self._tally.acceptance_rate,
            better=editor.refresh,
        )
        self._tasks = {asyncio.create_task(self._tally.run())}
        self._endpoint: Endpoint | None = None
        self._following: asyncio.Task[None] | None = None
        """Asks an engine that is loading how far it is."""
        self._busy_soon: asyncio.TimerHandle | None = None
        self._has_greeted = False
        self.configure(settings, roots)

    @property
    def status(self) -> Status:
        """The engine's state."""
        return self._board.status

    def configure(self, settings: Settings, roots: tuple[Path, ...]) -> None:
        """Use other settings or folders from now on."""
        is_elsewhere = settings.engine != self._settings.engine
        self._settings = settings
        self.completer.configure(settings, roots)
        self._activity.configure(self._is_excluded)
        self._tally.configure(user_file() if settings.statistics else None)
        is_read = settings.enabled and settings.workspace
        self._workspace.configure(roots if is_read else (), settings, workspace_key(roots))
        if is_elsewhere:
            self._has_greeted = False
            self._link.retarget()
            self._endpoint = None
            self._follow()
            self.completer.told_languages(())
        self._take(Chosen(settings.enabled, self.completer.languages, is_elsewhere))
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

    def offered(self, outcome: Outcome) -> dict[str, object]:
        """An answer is on its way to the user: what is to be known about it, such as what it is called."""
        name = f"s{next(self._numbers)}"
        best, source = outcome.suggestion, outcome.source
        if outcome.stop is not None:
            self._take(Answered())
        if best is not None and source != "none":
            others = tuple(other.text for other in outcome.suggestions[1:])
            replaces = best.end - best.start
            offer = Offer(name, best.text, replaces, others, outcome.tier, source, outcome.confidence)
            self._watcher.offered(outcome.document, best.start, offer)
        return {
            "id": name,
            "source": source,
            "tier": outcome.tier,
            "version": outcome.document.version,
            "server_ms": round(outcome.server_ms, 2),
            "engine_ms": round(outcome.total_ms - outcome.server_ms, 2),
        }

    def told(self, name: str, said: Said, units: int | None = None) -> None:
        """The editor says what became of the answer called `name`: so many UTF-16 `units` were accepted, if
        not all of it.
        """
        if said == "shown":
            self._watcher.shown(name)
        elif said == "dismissed":
            self._watcher.dismissed(name)
        else:
            self._watcher.accepted(name, units)

    def failed(self, error: UmbrellaError) -> None:
        """A request has led to `error`.

        That no engine can be had, the link has told; that one has crashed costs one suggestion and nobody's
        attention.
        """
        if isinstance(error, RequestError):
            self._editor.say_once(str(error))
        elif isinstance(error, EngineUnavailable) and not isinstance(error, EngineLost):
            self._follow()

    async def statistics(self) -> str:
        """What became of suggestions, as a table for people."""
        from umbrella_lsp.acceptance.stats import recorded, text

        await self._tally.save()
        try:
            found = text(await asyncio.to_thread(recorded))
        except InputError as error:
            return str(error)
        note = "\n\nNothing is counted at the moment: umbrella.statistics is off."
        return found if self._settings.statistics else found + note

    async def unload(self) -> str:
        """Have the user's engine free the memory of its models: a sentence about what came of it."""
        if self._settings.engine.url:
            return _NOT_OURS
        self.completer.close()
        try:
            is_free = await self._link.unload(unload_engine)
        except EngineGone:
            return "No engine runs."
        except UmbrellaError as error:
            return str(error)
        if is_free:
            return "The models' memory is free. The next request loads them."
        return "The models' memory will be free once what runs is done."

    async def aclose(self) -> None:
        """Stop reading and counting, and let go of the engine, which lives on by itself."""
        self.completer.close()
        if self._busy_soon is not None:
            self._busy_soon.cancel()
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

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _parse(self, document: Document) -> None:
        """Have a document parsed before anything is asked about it: the first time takes longest."""
        await self._syntax.at(document, 0)

    async def _greet(self) -> None:
        with suppress(UmbrellaError):  # The link has told.
            await self._link.connect()

    def _find(self) -> Endpoint:
        return engines.find(self._settings.engine)

    def _heard(self, event: LinkEvent) -> None:
        """Something has happened on the way to the engine."""
        match event:
            case Looking():
                self._take(Sought())
            case Found(endpoint):
                self._workspace.reached(endpoint)
                self._endpoint = endpoint
                self._follow()
                if endpoint.notice:
                    self._take(Noticed(endpoint.notice))
            case Failed(error):
                self._take(Missing(str(error)))
            case Gone():
                self._endpoint = None
                self._follow()
                if not self._settings.engine.url:  # Else the next search tells.
                    self._take(Ended())
            case Streams(count):
                self._work(count)

    def _work(self, streams: int) -> None:
        """So many texts are in the making."""
        if streams and self._busy_soon is None:
            loop = asyncio.get_running_loop()
            self._busy_soon = loop.call_later(BUSY_AFTER_S, self._busy)
        elif not streams and self._busy_soon is not None:
            self._busy_soon.cancel()
            self._busy_soon = None
            self._take(Working(busy=False))

    def _busy(self) -> None:
        """A text is taking its time, maybe because models that were given back are being loaded again."""
        self._take(Working(busy=True))
        self._follow()

    def _take(self, event: Event) -> None:
        """Tell the editor what `event` comes to."""
        news = self._board.take(event)
        if news.status is not None:
            self._editor.status(news.status)
        if news.error:
            self._editor.say(news.error, is_error=True)
        if news.notice:
            self._editor.say(news.notice)

    def _follow(self) -> None:
        """Ask the engine at hand, if there is one, what it is and how far, until it has loaded."""
        if self._following is not None:
            self._following.cancel()
        self._following = self._start(self._ask(self._endpoint)) if self._endpoint else None

    async def _ask(self, endpoint: Endpoint) -> None:
        try:
            async with aclosing(EngineClient(endpoint)) as client:
                while self._seen(await client.health()):  # noqa: ASYNC110 - another process's doing
                    await asyncio.sleep(ASK_EVERY_S)
        except UmbrellaError as error:
            self._take(Missing(str(error)) if endpoint.url else Ended())

    def _seen(self, health: Health) -> bool:
        """Take in what the engine says of itself. True if there will be more."""
        self.completer.told_languages(health.languages)
        model = " + ".join(filter(None, (health.model, health.draft_model)))
        languages = self.completer.languages
        self._take(Seen(health.state, health.progress, health.message, model, languages))
        if health.state in ("starting", "loading"):
            return True
        if health.state == "ready" and health.message:
            self._editor.say_once(health.message)
        self._speed.told(Speed(health.pass_ms, health.draft_ms))
        return False
