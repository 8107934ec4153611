"""The way to the engine: found or started when it is needed, and again after it went away.

Knows nothing of prompts or documents, nor of where engines are.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from engine.client import Endpoint, EngineClient, InfillCall, StreamEvent
from engine.errors import EngineGone
from umbrella_lsp.errors import EngineLost, EngineUnavailable, UmbrellaError

SEARCH_EVERY_S = 5.0
"""An engine that cannot be had is not looked for at every key: looking may mean to start a process."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Looking:
    """An engine is looked for, or started."""


@dataclass(frozen=True, slots=True)
class Found:
    """One answers."""

    endpoint: Endpoint
    """Its notice, if it has one, is news each time."""


@dataclass(frozen=True, slots=True)
class Failed:
    """None can be had. One is looked for again at a request, but not at once."""

    error: UmbrellaError


@dataclass(frozen=True, slots=True)
class Gone:
    """The one that was found has ended, or is about to."""


@dataclass(frozen=True, slots=True)
class Streams:
    """So many texts are being asked for at the moment, those ahead of time not counted."""

    count: int


LinkEvent = Looking | Found | Failed | Gone | Streams


class EngineLink:
    """One client's connections to the one engine it uses. Used from one event loop.

    `find` blocks until an engine answers and says where; it raises an UmbrellaError if none can be had,
    which then is everybody's answer for a while. `listen` is told what becomes of the engine, as it happens.
    """

    def __init__(
        self,
        find: Callable[[], Endpoint],
        listen: Callable[[LinkEvent], None] = lambda _: None,
        *,
        search_every_s: float = SEARCH_EVERY_S,
    ) -> None:
        self._find = find
        self._listen = listen
        self._search_every_s = search_every_s
        self._failed_s = -math.inf
        """When a search was last in vain."""
        self._finding: asyncio.Task[EngineClient] | None = None
        self._watching: asyncio.Task[None] | None = None
        """Waits for the end of the engine that was found."""
        self._streams = Counter[EngineClient]()
        """Running streams of each client, as closing a client cuts all of them."""
        self._asked = 0
        """Texts that `Streams` counts."""
        self._closing = set[asyncio.Task[None]]()

    async def connect(self) -> EngineClient:
        """A client of the running engine. All callers share one search, which no caller's cancel ends."""
        while True:
            finding = self._finding
            if finding is None or self._is_to_search_again(finding):
                finding = self._begin_search(self._search())
                self._listen(Looking())
            await asyncio.wait([finding])
            if finding is self._finding:
                return finding.result()

    async def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        """Stream text for `call`; closing the iterator cancels it in the engine.

        An engine that turns out to be gone or going is looked for, or started, once more, unless some of
        its text has been handed out already (EngineLost). What it says of this request alone is raised
        as it is: EngineUnavailable and RequestError.
        """
        has_begun = False
        for is_last in (False, True):
            client = await self.connect()
            self._begin(client, call)
            try:
                async with aclosing(client.infill(call)) as events:
                    async for event in events:
                        has_begun = True
                        yield event
                return
            except EngineUnavailable as error:
                if not await _is_over(client, error):
                    raise
                if self._is_current(client):  # Else another request has found the next one already.
                    self._lose()
                if has_begun:
                    raise EngineLost(str(error)) from error
                if is_last:
                    if self._finding is None:  # An engine that never lasts is one that cannot be had.
                        self._begin_search(_failing(error))
                    raise
            finally:
                await self._end(client, call)

    def retarget(self) -> None:
        """Forget the engine, as `find` has another to find. The next request looks anew.

        Streams that run end by themselves, and then their connections are closed.
        """
        finding, self._finding = self._finding, None
        self._failed_s = -math.inf
        self._stop_watching()
        if finding is None:
            return
        if not _succeeded(finding):
            finding.cancel()
        elif not self._streams[finding.result()]:
            self._close_later(finding.result())

    def _lose(self) -> None:
        """Forget the engine, as it ends."""
        has_one = self._finding is not None
        self.retarget()
        if has_one:
            self._listen(Gone())

    async def unload(self, free: Callable[[], T]) -> T:
        """Forget the engine and call `free`, which blocks until its memory is free, in a thread.

        The next request looks for an engine: where another configuration is wanted by then, one without
        models makes room for it.
        """
        self._lose()
        return await _in_daemon_thread(free)

    async def aclose(self) -> None:
        """Close connections and stop looking."""
        self._stop_watching()
        if self._finding is not None:
            self._finding.cancel()  # Whoever waits for it is cancelled too.
            if _succeeded(self._finding):
                self._close_later(self._finding.result())
                self._finding = None
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _begin_search(self, search: Coroutine[object, object, EngineClient]) -> asyncio.Task[EngineClient]:
        self._finding = asyncio.create_task(search)
        self._finding.add_done_callback(self._searched)
        return self._finding

    async def _search(self) -> EngineClient:
        return EngineClient(await _in_daemon_thread(self._find))

    def _searched(self, finding: asyncio.Task[EngineClient]) -> None:
        """A search has ended; unless it is of no interest any more, everybody is told."""
        if finding.cancelled() or finding is not self._finding:
            return
        error = finding.exception()
        if isinstance(error, UmbrellaError):
            self._failed_s = time.monotonic()
            self._listen(Failed(error))
        elif error is None:
            client = finding.result()
            if not client.endpoint.url:
                self._watching = asyncio.create_task(self._watch(client))
            self._listen(Found(client.endpoint))

    async def _watch(self, client: EngineClient) -> None:
        """Take note of the engine's end when it comes rather than at the next request."""
        await client.ended()
        if self._is_current(client):
            self._watching = None
            self._lose()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._keep(self._watching)
            self._watching = None

    def _is_to_search_again(self, finding: asyncio.Task[EngineClient]) -> bool:
        if not finding.done() or _succeeded(finding):
            return False
        return time.monotonic() - self._failed_s >= self._search_every_s

    def _is_current(self, client: EngineClient) -> bool:
        finding = self._finding
        return finding is not None and _succeeded(finding) and finding.result() is client

    def _begin(self, client: EngineClient, call: InfillCall) -> None:
        self._streams[client] += 1
        self._count(call, 1)

    async def _end(self, client: EngineClient, call: InfillCall) -> None:
        """One stream of `client` has ended; the last one of a client that is used no more closes it."""
        self._count(call, -1)
        self._streams[client] -= 1
        if self._streams[client] > 0:
            return
        del self._streams[client]
        if not self._is_current(client):
            await client.aclose()

    def _count(self, call: InfillCall, more: int) -> None:
        if call.umbrella.priority != "prefetch":
            self._asked += more
            self._listen(Streams(self._asked))

    def _close_later(self, client: EngineClient) -> None:
        self._keep(asyncio.create_task(client.aclose()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _failing(error: UmbrellaError) -> EngineClient:
    raise error


async def _is_over(client: EngineClient, error: EngineUnavailable) -> bool:
    """Whether `error` means the end of the engine, and not only of one request."""
    if isinstance(error, EngineGone):
        return True
    # An engine that shuts down refuses as a busy one does; only its health tells the two apart.
    try:
        async with asyncio.timeout(client.endpoint.connect_timeout_s):
            return (await client.health()).state == "draining"
    except EngineGone:
        return True
    except (EngineUnavailable, TimeoutError):
        return False


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, of this package's errors.

    Unlike `asyncio.to_thread`, nothing waits for the thread when the process ends: an engine that does
    not start must not keep an editor's server from ending.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def deliver(settle: Callable[[], None]) -> None:
        if not result.cancelled():
            settle()

    def run() -> None:
        settle = partial(result.set_exception, EngineUnavailable("No engine could be had; see the log."))
        try:
            settle = partial(result.set_result, work())
        except UmbrellaError as error:
            settle = partial(result.set_exception, error)
        finally:
            with suppress(RuntimeError):  # The loop has ended, and nobody wants to know any more.
                loop.call_soon_threadsafe(deliver, settle)

    threading.Thread(target=run, name="umbrella-find-engine", daemon=True).start()
    return await result


def _succeeded(task: asyncio.Task[EngineClient]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
