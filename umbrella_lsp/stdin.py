"""Standard input as a stream of an event loop. Knows no messages.

A thread reads all there is at a time. Handing each of a message's lines from one thread to another costs more
than all that is done with it, and it costs most where a machine is busy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from threading import Thread
from typing import SupportsIndex

CHUNK_BYTES = 1 << 16


class _Input(asyncio.StreamReader):
    """A stream that may be ended before its source is."""

    _is_over = False

    def feed_eof(self) -> None:
        self._is_over = True
        super().feed_eof()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        if not self._is_over:
            super().feed_data(data)


def stdin_reader() -> asyncio.StreamReader:
    """What comes on standard input from now on, for the running event loop. To be called once."""
    loop = asyncio.get_running_loop()
    reader = _Input()

    def read() -> None:
        while True:
            try:
                data = os.read(0, CHUNK_BYTES)
            except OSError:
                data = b""
            with suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(take, data)
            if not data:
                return

    def take(data: bytes) -> None:
        if data:
            reader.feed_data(data)
        else:
            reader.feed_eof()

    # Nobody waits for it: it may never return.
    Thread(target=read, name="stdin", daemon=True).start()
    return reader
