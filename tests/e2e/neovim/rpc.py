"""Neovim's API over its socket: msgpack-rpc, one blocking call at a time.

Source: https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md. pynvim would do, were it not for the
sockets that it leaves to the garbage collector, which warns of them.
"""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import Any

import msgpack  # pyright: ignore[reportMissingTypeStubs]  # it has none

REQUEST, RESPONSE = 0, 1


class NeovimError(Exception):
    """What Neovim says of a call that failed."""


class Rpc:
    """A connection; calls raise TimeoutError after `timeout_s` without an answer."""

    def __init__(self, address: Path, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(address))
        self._packer: Any = msgpack.Packer()
        self._messages = msgpack.Unpacker()
        self._ids = itertools.count()

    def call(self, method: str, *arguments: object) -> Any:
        """What the API function of this name returns."""
        request = next(self._ids)
        self._socket.sendall(self._packer.pack([REQUEST, request, method, arguments]))
        while True:
            for message in self._messages:
                if message[:2] == [RESPONSE, request]:
                    _, _, error, result = message
                    if error:
                        raise NeovimError(error[1])
                    return result
            chunk = self._socket.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError("Neovim has ended")
            self._messages.feed(chunk)

    def close(self) -> None:
        self._socket.close()
