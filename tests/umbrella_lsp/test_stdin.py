"""What a server reads, and what it does between two messages that came together."""

from __future__ import annotations

import asyncio
import os

from umbrella_lsp.stdin import stdin_reader


def test_what_a_line_has_begun_goes_on_before_the_next_line_is_read() -> None:
    async def main() -> None:
        here, there = os.pipe()
        done: list[bytes] = []

        async def handled(line: bytes) -> None:
            done.append(line)

        os.write(there, b"first\nsecond\nthi")
        os.close(there)
        reader = stdin_reader(here)
        tasks: list[asyncio.Task[None]] = []
        while line := await reader.readline():
            assert len(done) == len(tasks)
            tasks.append(asyncio.create_task(handled(line)))
        assert done == [b"first\n", b"second\n", b"thi"]
        os.close(here)

    asyncio.run(main())
