"""The language server, seen from one of its child processes; `child` is the server's side.

Messages are msgpack values in frames, each behind its length in four bytes. This stays importable without
asyncio, which would be half of what a child that does without it imports.

A child takes a `Parent` at its start, blocks in `receive`, which returns None once the server has closed the
pipe and the child is to end, and may `send` from any thread. It outlives its server in no case: also in the
middle of a call that hangs, the kernel ends it with the thread that started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
from types import TracebackType
from typing import BinaryIO, TypeVar

import msgspec

LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
_T = TypeVar("_T")


def frame(message: object) -> bytes:
    """A message as it is sent."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


class Parent:
    """The server, seen from a child, whose process this takes possession of: make it first, and once."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Meant for the server, who ends us.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        sys.excepthook = _report
        self._input: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._output: BinaryIO = os.fdopen(os.dup(1), "wb")
        # Nothing that a library prints must get between the frames.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self._sending = threading.Lock()

    def receive(self, kind: type[_T]) -> _T | None:
        """The next message; None once the server wants no more of us."""
        head = self._input.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (size,) = LENGTH.unpack(head)
        body = self._input.read(size)
        return msgspec.msgpack.decode(body, type=kind) if len(body) == size else None

    def send(self, message: object) -> None:
        """Send what msgspec can encode. Ends the process if nobody is there to read it."""
        with self._sending:
            try:
                self._output.write(frame(message))
                self._output.flush()
            except OSError:
                os._exit(0)  # From any thread.


def _report(kind: type[BaseException], _error: BaseException, traceback: TracebackType | None) -> None:
    """Say what ended the child, and where, without the error's message, which may hold the user's code."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f"{traceback.tb_frame.f_code.co_qualname}, line {traceback.tb_lineno}" if traceback else "nowhere"
    sys.stderr.write(f"{sys.argv[0]}: {kind.__name__} in {place}\n")
