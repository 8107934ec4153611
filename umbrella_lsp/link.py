"""The way to the engine: found or started when it is needed, and again after it went away.

Knows nothing of prompts or documents.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from engine.client import CONNECT_TIMEOUT_S, Endpoint, EngineClient, InfillCall, StreamEvent
from engine.errors import EngineGone
from umbrella_lsp.errors import EngineLost, EngineUnavailable, UmbrellaError

SEARCH_EVERY_S = 5.0
"""An engine that cannot be had is not looked for at every key: looking may mean to start a process."""


class EngineLink:
    """One client's connections to the one engine its user has. Used from one event loop.

    `find` blocks until an engine listens and says where; it raises EngineUnavailable if none can be had,
    which then is everybody's answer for a while. `reached` is told where, each time.
    """

    def __init__(
        self,
        find: Callable[[], Endpoint],
        reached: Callable[[Endpoint], None] | None = None,
        *,
        search_every_s: float = SEARCH_EVERY_S,
    ) -> None:
        self._find = find
        self._reached = reached
        self._search_every_s = search_every_s
        self._failed_s = -math.inf
        """When a search was last in vain."""
        self._finding: asyncio.Task[EngineClient] | None = None
        self._streams = Counter[EngineClient]()
        """Running streams of each client, as closing a client cuts all of them."""

    async def connect(self) -> EngineClient:
        """A client of the running engine. All callers share one search, which no caller's cancel ends."""
        if self._finding is None or self._is_to_search_again(self._finding):
            self._finding = asyncio.create_task(self._search())
        return await asyncio.shield(self._finding)

    async def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        """Stream text for `call`; closing the iterator cancels it in the engine.

        An engine that turns out to be gone or going is looked for, or started, once more, unless some of
        its text has been handed out already (EngineLost). What it says of this request alone is raised
        as it is: EngineUnavailable and RequestError.
        """
        has_begun = False
        for is_last in (False, True):
            client = await self.connect()
            self._streams[client] += 1
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
                    self._finding = None
                if has_begun:
                    raise EngineLost(str(error)) from error
                if is_last:
                    raise
            finally:
                await self._release(client)

    async def aclose(self) -> None:
        """Close connections and stop looking."""
        if self._finding is None:
            return
        self._finding.cancel()
        if _succeeded(self._finding):
            await self._finding.result().aclose()
        self._finding = None

    async def _search(self) -> EngineClient:
        try:
            endpoint = await _in_daemon_thread(self._find)
        except UmbrellaError:
            self._failed_s = time.monotonic()
            raise
        if self._reached is not None:
            self._reached(endpoint)
        return EngineClient(endpoint)

    def _is_to_search_again(self, finding: asyncio.Task[EngineClient]) -> bool:
        if not finding.done() or _succeeded(finding):
            return False
        return time.monotonic() - self._failed_s >= self._search_every_s

    def _is_current(self, client: EngineClient) -> bool:
        finding = self._finding
        return finding is not None and _succeeded(finding) and finding.result() is client

    async def _release(self, client: EngineClient) -> None:
        """One stream of `client` has ended; the last one of a client that is used no more closes it."""
        self._streams[client] -= 1
        if self._streams[client] > 0:
            return
        del self._streams[client]
        if not self._is_current(client):
            await client.aclose()


async def _is_over(client: EngineClient, error: EngineUnavailable) -> bool:
    """Whether `error` means the end of the engine, and not only of one request."""
    if isinstance(error, EngineGone):
        return True
    # An engine that shuts down refuses as a busy one does; only its health tells the two apart.
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return (await client.health()).state == "draining"
    except EngineGone:
        return True
    except (EngineUnavailable, TimeoutError):
        return False


async def _in_daemon_thread(find: Callable[[], Endpoint]) -> Endpoint:
    """What `find` returns or raises, of this package's errors.

    Unlike `asyncio.to_thread`, nothing waits for the thread when the process ends: an engine that does
    not start must not keep an editor's server from ending.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Endpoint] = loop.create_future()

    def deliver(endpoint: Endpoint | None, error: UmbrellaError | None) -> None:
        if result.cancelled():
            return
        if endpoint is not None:
            result.set_result(endpoint)
        else:
            result.set_exception(error or EngineUnavailable("The search for an engine failed; see the log."))

    def search() -> None:
        endpoint, problem = None, None
        try:
            endpoint = find()
        except UmbrellaError as error:
            problem = error
        finally:
            with suppress(RuntimeError):  # The loop has ended, and nobody wants to know any more.
                loop.call_soon_threadsafe(deliver, endpoint, problem)

    threading.Thread(target=search, name="umbrella-find-engine", daemon=True).start()
    return await result


def _succeeded(task: asyncio.Task[EngineClient]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
