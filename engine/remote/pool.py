"""Chooses among servers: who is asked next, who waits, and who is looked at again. On one event loop."""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from engine.remote.upstream import Patience, Upstream

DEMAND_S = 300.0
"""How long after the last request servers that are down are still looked at."""
LOOK_EVERY_S = 1.0
"""At most, however many ask."""

Key = tuple[int, int]
"""How urgent a generation is, and when it came; the smallest goes first."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """Somebody who wants a server."""

    key: Key
    avoided: Collection[Upstream]
    leased: asyncio.Future[Upstream | None]


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
        self._waiting: list[_Asking] = []
        """The most urgent first."""
        self._alarm: asyncio.TimerHandle | None = None
        self._watching: dict[Upstream, asyncio.Task[None]] = {}
        self._looked_at: dict[Upstream, float] = {}
        self._first_look = asyncio.Event()
        self._wanted_at = 0.0
        for upstream in self.upstreams:
            upstream.at_recovery = self._hand_out

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
        asking = _Asking(key, avoided, asyncio.get_running_loop().create_future())
        insort(self._waiting, asking, key=lambda each: each.key)
        self._hand_out()
        try:
            return await asking.leased
        except asyncio.CancelledError:
            if asking.leased.done() and not asking.leased.cancelled() and (leased := asking.leased.result()):
                self.give_back(leased)
            raise

    def give_back(self, upstream: Upstream) -> None:
        """`upstream` has done what it was leased for, or has failed."""
        upstream.in_flight -= 1
        self._hand_out()

    async def stop(self) -> None:
        """Look at nobody any more."""
        tasks = list(self._watching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_up(self, upstream: Upstream) -> bool:
        return upstream.is_up and upstream in self._looked_at

    def _hand_out(self) -> None:
        """Tell whoever waits for a server that can be had, or for none that ever will, in order."""
        now_s = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for asking in waiting:
            if asking.leased.done():  # It went away.
                continue
            able = [each for each in self.upstreams if self._is_up(each) and each not in asking.avoided]
            able = [each for each in able if each.free_at - now_s <= self._patience.retry_s]
            free = [each for each in able if each.has_room and each.free_at <= now_s]
            if free:
                best = min(free, key=lambda each: each.load(now_s))
                best.in_flight += 1
                asking.leased.set_result(best)
            elif able:
                self._waiting.append(asking)
            else:
                asking.leased.set_result(None)
        self._wake_when_free(now_s)

    def _wake_when_free(self, now_s: float) -> None:
        """Hand out again when the next of those who are busy wants to be asked."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        pauses_s = [each.free_at - now_s for each in self.upstreams if each.free_at > now_s]
        if self._waiting and pauses_s:
            self._alarm = asyncio.get_running_loop().call_later(min(pauses_s), self._hand_out)

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
        self._hand_out()
