"""At most one answer in the making for each document. Knows nothing of LSP or of what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LatestOnly(Generic[T]):
    """Runs one task a key; a newer one ends the older. Used from one event loop."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[T]] = {}

    async def run(self, key: str, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns, or None if it was superseded. Ends what runs for `key`.

        A cancel of the caller ends `work` and is raised, so that the two can be told apart.
        """
        self.supersede(key)
        task = asyncio.ensure_future(work)
        self._running[key] = task
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            return None
        finally:
            if self._running.get(key) is task:
                del self._running[key]

    def supersede(self, key: str) -> None:
        """End what runs for `key`, because its result would no longer be true."""
        task = self._running.pop(key, None)
        if task is not None:
            task.cancel()
