"""What is read of a workspace's disk: regular files that hold source code, and nothing that could block."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from umbrella_lsp.document import language_of
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.text import normalised

MAX_FILE_BYTES = 200_000
MAX_LINE_CHARS = 5_000
"""Longer lines are written by programs, for programs."""


def is_source(path: str, secret_files: tuple[str, ...]) -> bool:
    """Whether a file's name promises source code that may be shown to a model."""
    return language_of(path) in GRAMMARS and not is_secret(path, secret_files) and can_be_sent(path)


def can_be_sent(path: str) -> bool:
    """Whether a path is UTF-8. Else it holds surrogates, which messages and the watcher cannot express."""
    return path.isascii() or normalised(path) == path


def stamp_of(status: os.stat_result) -> int:
    """What changes when a file does. The same in every process, as whole numbers' hashes are not salted."""
    return hash((status.st_mtime_ns, status.st_size, status.st_ino))


def read_regular(path: str | Path, max_bytes: int) -> bytes | None:
    """What a regular file holds, links not followed; None if it is none, longer, or changes meanwhile."""
    # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError):  # The latter: a name with a zero byte.
        return None
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode) or before.st_size > max_bytes:
            return None
        data = bytearray()
        # The size a file states is not always its own.
        while len(data) <= max_bytes and (piece := os.read(descriptor, max_bytes + 1 - len(data))):
            data += piece
        is_same = stamp_of(os.fstat(descriptor)) == stamp_of(before)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return bytes(data) if is_same and len(data) <= max_bytes else None


def read_source(path: str | Path) -> str | None:
    """The text of a source file; None if it is gone, too large, no text, or not written by people."""
    data = read_regular(path, MAX_FILE_BYTES)
    return None if data is None else source_of(data)


def source_of(data: bytes) -> str | None:
    """`data` as text with LF line ends; None if it is binary or not written by people."""
    if b"\0" in data:
        return None
    try:
        text = normalised(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    return None if max(map(len, text.split("\n"))) > MAX_LINE_CHARS else text
