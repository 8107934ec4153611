"""Chooses among servers: who is asked next, who waits, and who is looked at again. On one event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Collection, Sequence

from engine.remote.upstream import Patience, Upstream

DEMAND_S = 300.0
"""How long after the last request servers that are down are still looked at."""
LOOK_EVERY_S = 1.0
"""At most, however many ask."""

Key = tuple[int, int]
"""How urgent a generation is, and when it came; the smallest goes first."""


class Pool:
    """Servers that have the same model. `at_news` is called when one of them has been looked at."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        patience: Patience,
        at_news: Callable[[Upstream], None] = lambda _: None,
    ) -> None:
        self.upstreams = tuple(upstreams)
        self._patience = patience
        self._at_news = at_news
        self._waiting: list[tuple[Key, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._watching: dict[Upstream, asyncio.Task[None]] = {}
        self._looked_at: dict[Upstream, float] = {}
        self._first_look = asyncio.Event()
        self._wanted_at = 0.0

    @property
    def up(self) -> int:
        """How many may be asked, as far as is known."""
        return sum(self._is_up(upstream) for upstream in self.upstreams)

    @property
    def problems(self) -> str:
        """Why the others may not."""
        return "; ".join(upstream.problem for upstream in self.upstreams if upstream.problem)

    async def known(self) -> None:
        """Return once some server is up, or all of them have been looked at."""
        await self._first_look.wait()

    def want(self) -> None:
        """Somebody asks for something: servers that are down, or not known yet, are looked at by and by."""
        self._wanted_at = time.monotonic()
        for upstream in self.upstreams:
            if not self._is_up(upstream) and upstream not in self._watching:
                self._watching[upstream] = asyncio.create_task(self._watch(upstream))

    async def look_now(self) -> None:
        """Look at all that are down, but for those that just have been."""
        now_s = time.monotonic()
        due = [each for each in self.upstreams if not self._is_up(each)]
        due = [each for each in due if now_s - self._looked_at.get(each, -LOOK_EVERY_S) >= LOOK_EVERY_S]
        await asyncio.gather(*map(self._look, due))

    async def lease(self, key: Key, avoided: Collection[Upstream]) -> Upstream | None:
        """The least loaded server that is up and not among `avoided`, once it has room.

        None if there is none, nor will be soon. What is leased has to be given back.
        """
        while True:
            now_s = time.monotonic()
            able = [each for each in self.upstreams if self._is_up(each) and each not in avoided]
            able = [each for each in able if each.free_at - now_s <= self._patience.retry_s]
            if not able:
                return None
            free = [each for each in able if each.has_room and each.free_at <= now_s]
            if free and not (self._waiting and self._waiting[0][0] < key):
                best = min(free, key=lambda each: each.load(now_s))
                best.in_flight += 1
                return best
            await self._wait(
                key, min((each.free_at - now_s for each in able if each.free_at > now_s), default=None)
            )

    def give_back(self, upstream: Upstream) -> None:
        """`upstream` has done what it was leased for, or has failed."""
        upstream.in_flight -= 1
        self._wake(None if not upstream.is_up else 1)

    async def stop(self) -> None:
        """Look at nobody any more."""
        tasks = list(self._watching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_up(self, upstream: Upstream) -> bool:
        return upstream.is_up and upstream in self._looked_at

    async def _wait(self, key: Key, at_most_s: float | None) -> None:
        woken = asyncio.get_running_loop().create_future()
        entry = (key, next(self._numbers), woken)
        heapq.heappush(self._waiting, entry)
        try:
            async with asyncio.timeout(at_most_s):
                await woken
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self._wake(1)  # It was told that there is room, and goes away.
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)

    def _wake(self, most: int | None) -> None:
        """Let so many of those who wait try again, the most urgent first; None: all."""
        for _ in range(len(self._waiting) if most is None else most):
            if self._waiting:
                _, _, woken = heapq.heappop(self._waiting)
                if not woken.done():
                    woken.set_result(None)

    async def _watch(self, upstream: Upstream) -> None:
        try:
            while True:
                if upstream in self._looked_at:
                    await asyncio.sleep(upstream.pause_s())
                await self._look(upstream)
                if upstream.is_up or time.monotonic() - self._wanted_at > DEMAND_S:
                    return
        finally:
            del self._watching[upstream]

    async def _look(self, upstream: Upstream) -> None:
        await upstream.look()
        self._looked_at[upstream] = time.monotonic()
        if upstream.is_up or len(self._looked_at) == len(self.upstreams):
            self._first_look.set()
        self._at_news(upstream)
        self._wake(None)
