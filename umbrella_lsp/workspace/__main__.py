"""The process that reads the workspace: messages in, messages out."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from umbrella_lsp.parent import Parent
from umbrella_lsp.syntax.tree import Outline, outline
from umbrella_lsp.workspace.disk import Disk
from umbrella_lsp.workspace.indexing import Indexer
from umbrella_lsp.workspace.messages import (
    IN_BACKGROUND,
    ChildMessage,
    Configure,
    Look,
    Reached,
    ServerMessage,
    Shown,
    ToChild,
    ToServer,
)

NICENESS = 10


def main(outline: Callable[[str, str], Outline] = outline) -> None:
    """Do what the server says until it closes the pipe."""
    parent = Parent()
    asyncio.run(_serve(parent, outline))


def give_way() -> None:
    """Let everybody else run first, on processors and, as it follows from this, on disks.

    Not with `SCHED_IDLE` nor last of all: on a machine that is busy for long, that is never to run.
    """
    os.nice(NICENESS)
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def _serve(parent: Parent, outline: Callable[[str, str], Outline]) -> None:
    def send(message: ChildMessage) -> None:
        parent.send(ToServer(message))

    indexer = Indexer(send, Disk(send), outline)

    def take(message: ServerMessage) -> None:
        match message:
            case Configure():
                indexer.configure(message)
            case Reached():
                indexer.pusher.reached(message)
            case Look() | Shown():
                indexer.take(message)

    def listen(loop: asyncio.AbstractEventLoop) -> None:
        while (frame := parent.receive(ToChild)) is not None:
            loop.call_soon_threadsafe(take, frame.message)
        os._exit(0)  # Whatever is worked on.

    threading.Thread(target=listen, args=(asyncio.get_running_loop(),), daemon=True).start()
    async with asyncio.TaskGroup() as tasks:
        for work in (indexer.run(), indexer.run_errands(), indexer.await_roots(), indexer.pusher.run()):
            tasks.create_task(work)


if __name__ == "__main__":
    if IN_BACKGROUND in sys.argv:
        give_way()
    main()
