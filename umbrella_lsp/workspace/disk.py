"""One piece of work at a time, of which the server is told before it begins.

So the server knows what to keep away from if this process crashes or hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from umbrella_lsp.workspace.messages import At, ChildMessage

_T = TypeVar("_T")


class Disk:
    """Where all work is done that may take its time: listing, reading, parsing.

    It holds the event loop up, on which nothing is urgent: a thread would cost more than most of the work.
    """

    def __init__(self, send: Callable[[ChildMessage], None]) -> None:
        self._send = send

    async def do(self, at: str, work: Callable[[], _T]) -> _T:
        """The result of `work`, which has to do with the path `at`."""
        self._send(At(at))
        result = work()
        self._send(At(""))
        await asyncio.sleep(0)
        return result

    async def tell(self, at: str, work: Callable[[], ChildMessage]) -> None:
        """Send what comes of `work`, which says that it is over as well."""
        self._send(At(at))
        self._send(work())
        await asyncio.sleep(0)
