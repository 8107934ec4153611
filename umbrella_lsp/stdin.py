"""Standard input as a stream of an event loop. Knows no messages.

A thread reads all there is at a time. Handing each of a message's lines from one thread to another costs more
than all that is done with it, and it costs most where a machine is busy.
"""

from __future__ import annotations

import asyncio
import os
from threading import Thread

CHUNK_BYTES = 1 << 16


def stdin_reader() -> asyncio.StreamReader:
    """What comes on standard input from now on, for the running event loop. To be called once."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()

    def read() -> None:
        while True:
            try:
                data = os.read(0, CHUNK_BYTES)
            except OSError:
                data = b""
            try:
                loop.call_soon_threadsafe(*((reader.feed_data, data) if data else (reader.feed_eof,)))
            except RuntimeError:  # The loop is closed.
                return
            if not data:
                return

    # Nobody waits for it: it may never return.
    Thread(target=read, name="stdin", daemon=True).start()
    return reader
