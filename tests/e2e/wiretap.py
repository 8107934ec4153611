"""A tap on the wire between an editor and a language server: ``wiretap.py LOGFILE COMMAND...``.

It starts COMMAND, passes stdin and stdout through byte for byte, and appends each message to LOGFILE as one
line of JSON: ``{"t": seconds since the epoch, "from": "editor" | "server", "message": {...}}``. stderr is
COMMAND's own. It ends when COMMAND ends, with its exit status. It knows how messages are framed and nothing
of what they say; bytes that are no message are passed on and not logged.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 16


class Messages:
    """Takes a stream's bytes as they come; gives the messages that they complete."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> Iterator[Any]:
        self._held += chunk
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            length = _content_length(self._held[:end])
            if len(self._held) < end + 4 + length:
                return
            body = self._held[end + 4 : end + 4 + length]
            self._held = self._held[end + 4 + length :]
            try:
                yield json.loads(body)
            except ValueError:
                continue


def read(log: Path) -> list[dict[str, Any]]:
    """What has been logged so far; a line that is still being written is left out."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1] if line]


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return 0


def _pass_on(source: int, sink: IO[bytes], log: int, sender: str) -> None:
    messages = Messages()
    while chunk := os.read(source, _CHUNK):
        # Logged first: whoever sees the effect of a message finds it in the log.
        for message in messages.feed(chunk):
            record = {"t": time.time(), "from": sender, "message": message}
            os.write(log, (json.dumps(record) + "\n").encode())
        try:
            sink.write(chunk)
            sink.flush()
        except OSError:
            return


def main(log: str, *command: str) -> int:
    """Run `command` between our own stdin and stdout; its exit status."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    to_server, from_server = server.stdin, server.stdout
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: server.send_signal(number))

    def editor_to_server() -> None:
        _pass_on(sys.stdin.fileno(), to_server, descriptor, "editor")
        to_server.close()

    threading.Thread(target=editor_to_server, daemon=True).start()
    _pass_on(from_server.fileno(), sys.stdout.buffer, descriptor, "server")
    return server.wait()


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    # The thread may be waiting for the editor's next byte; a regular exit could wait for it.
    os._exit(status if status >= 0 else 128 - status)
