"""Standard input as a stream of an event loop. Knows no messages.

A thread hands over all there is at a time: to hand each line of a message from one thread to another costs
more than all that is done with the message, and most where a machine is busy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from threading import Thread
from typing import SupportsIndex

CHUNK_BYTES = 1 << 16


class _Stream(asyncio.StreamReader):
    """May be ended before its source is."""

    _is_over = False

    def feed_eof(self) -> None:
        self._is_over = True
        super().feed_eof()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        if not self._is_over:
            super().feed_data(data)

    async def readline(self) -> bytes:
        # What was begun before goes on first. So a request sees the document that it was made for, and not
        # what the next message, which may lie here already, makes of it.
        await asyncio.sleep(0)
        return await super().readline()


def stdin_reader(descriptor: int = 0) -> asyncio.StreamReader:
    """What comes on standard input from now on, for the running event loop. To be called once.

    Between two lines there is time for what is ready to run.
    """
    loop, stream = asyncio.get_running_loop(), _Stream()

    def take(data: bytes) -> None:
        if data:
            stream.feed_data(data)
        else:
            stream.feed_eof()

    def read() -> None:
        data = b"\n"
        while data:
            try:
                data = os.read(descriptor, CHUNK_BYTES)
            except OSError:
                data = b""
            with suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(take, data)

    # Nobody waits for it: it may never return.
    Thread(target=read, name="stdin", daemon=True).start()
    return stream
