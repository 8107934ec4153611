"""The process that reads the workspace: messages in, messages out, and everything else has precedence."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from umbrella_lsp.child import Parent
from umbrella_lsp.syntax.tree import Outline, outline
from umbrella_lsp.workspace.disk import Disk
from umbrella_lsp.workspace.indexing import Indexer
from umbrella_lsp.workspace.messages import (
    ChildMessage,
    Configure,
    Look,
    Reached,
    ServerMessage,
    Shown,
    ToChild,
    ToServer,
)
from umbrella_lsp.workspace.pushing import Pusher
from umbrella_lsp.workspace.reading import read_source


def main(outline: Callable[[str, str], Outline] = outline) -> None:
    """Do what the server says until it closes the pipe."""
    parent = Parent()
    asyncio.run(_serve(parent, outline))


def give_way() -> None:
    """Let others run first, on processors and, as it follows from this, on disks.

    Not `SCHED_IDLE`: on a machine that is busy for long, that is never to run, nor even to end.
    """
    os.nice(19)
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def _serve(parent: Parent, outline: Callable[[str, str], Outline]) -> None:
    def send(message: ChildMessage) -> None:
        parent.send(ToServer(message))

    disk = Disk(send)
    pusher = Pusher(lambda path: disk.do(path, partial(read_source, path)))
    indexer = Indexer(send, disk, pusher, outline)

    def take(message: ServerMessage) -> None:
        match message:
            case Configure():
                indexer.configure(message)
            case Reached():
                pusher.reached(message)
            case Look() | Shown():
                indexer.take(message)

    def listen(loop: asyncio.AbstractEventLoop) -> None:
        while (frame := parent.receive(ToChild)) is not None:
            loop.call_soon_threadsafe(take, frame.message)
        os._exit(0)  # Whatever is worked on.

    threading.Thread(target=listen, args=(asyncio.get_running_loop(),), daemon=True).start()
    async with asyncio.TaskGroup() as tasks:
        for work in (indexer.run(), indexer.run_errands(), pusher.run()):
            tasks.create_task(work)


if __name__ == "__main__":
    give_way()
    main()
