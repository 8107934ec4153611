"""One piece of work at a time, in a thread, of which the server is told before it begins.

So the server knows what to keep away from if this process crashes or hangs, and asyncio goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from umbrella_lsp.workspace.messages import At, ChildMessage

_T = TypeVar("_T")


class Disk:
    """Where all work is done that may block: reading, listing, parsing. What is begun is never cancelled."""

    def __init__(self, send: Callable[[ChildMessage], None]) -> None:
        self._send = send
        self._lock = asyncio.Lock()

    async def do(self, at: str, work: Callable[[], _T]) -> _T:
        """The result of `work`, which has to do with the path `at`."""
        async with self._lock:
            self._send(At(at))
            result = await asyncio.to_thread(work)
            self._send(At(""))
            return result

    async def tell(self, at: str, work: Callable[[], ChildMessage]) -> None:
        """Send what comes of `work`, which says that it is over as well."""
        async with self._lock:
            self._send(At(at))
            self._send(await asyncio.to_thread(work))
