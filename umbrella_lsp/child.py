"""Child processes of the language server: how they are started, spoken to and ended. Knows no message.

A child is a module of ours that is run beside the server so that what it calls, a grammar or a file system,
may crash or hang without harm. Both sides exchange msgpack values in frames over the child's standard input
and output; `parent` is the child's side.

The server starts a `Child`, sends with `send`, awaits with `receive`, which both raise `ChildGone` once
there is nobody to talk to, and ends it with `aclose`, or with `kill` where it cannot wait. One task may
receive while others send; that answers match questions is for the users to see to.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import SubprocessStreamProtocol
from contextlib import suppress
from typing import TypeVar

import msgspec

from umbrella_lsp.parent import LENGTH, frame

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""No message comes near it: a longer one is a pipe that somebody else wrote to."""
DYING_S = 1.0
"""What a process that is killed may take to end."""

_BUFFER_BYTES = 64 * 1024
_T = TypeVar("_T")


class ChildGone(Exception):
    """The child has ended, or its pipe no longer holds what it should."""


class Child:
    """A running child, seen from the server. Used from one event loop."""

    def __init__(self, process: asyncio.subprocess.Process, transport: asyncio.SubprocessTransport) -> None:
        self._process = process
        self._transport = transport

    @staticmethod
    async def start(module: str, *arguments: str) -> Child:
        """Run `module` by this interpreter. Raises `ChildGone` where no process can be had."""
        # -P: the working directory is the user's workspace, where a file may be called like a library.
        command = (sys.executable, "-P", "-m", module, *arguments)
        pipe, loop = asyncio.subprocess.PIPE, asyncio.get_running_loop()
        try:
            # What `create_subprocess_exec` does, which keeps the transport, and so the pipes, to itself.
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(_BUFFER_BYTES, loop),
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=None,
            )
        except OSError as error:
            raise ChildGone(f"no process for {module}: {type(error).__name__}") from error
        return Child(asyncio.subprocess.Process(transport, protocol, loop), transport)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def send(self, message: object) -> None:
        """Send what msgspec can encode; waits while the child is far behind."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame(message))
            await self._process.stdin.drain()
        except OSError as error:
            raise ChildGone("it reads no more") from error

    async def receive(self, kind: type[_T]) -> _T:
        """The next message. Cancelled half-way it leaves the stream unusable: shield it or kill the child."""
        assert self._process.stdout is not None
        try:
            (size,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
            if size > MAX_FRAME_BYTES:
                raise ChildGone("it sent no frame")
            return msgspec.msgpack.decode(await self._process.stdout.readexactly(size), type=kind)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ChildGone("it has ended") from error
        except msgspec.MsgspecError as error:
            raise ChildGone("it sent no message") from error

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self._process.returncode is None:
            self._process.kill()

    async def aclose(self, *, patience_s: float = 1.0) -> None:
        """Ask it to end, kill it if it does not do so in time, and wait for that.

        A process that hangs in the kernel, as in a dead network mount, cannot be killed. It is left behind,
        and who receives from it is told that it is gone all the same.
        """
        assert self._process.stdin is not None
        if self._transport.is_closing():  # An earlier call, or it has ended and all it said was read.
            return
        self._process.stdin.close()
        for seconds in (patience_s, DYING_S):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
            self.kill()
        if self._process.stdin.transport.get_write_buffer_size():
            self._process.stdin.transport.abort()  # Or it would stay open for what nobody will read.
        self._transport.close()
        await asyncio.sleep(0)  # Only then are its pipes closed.
