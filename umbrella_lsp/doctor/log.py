"""The engine's log, read for what went wrong. Pure.

The log holds no source text by design, but this is what people post in public: so of everything in it only
lines that are log records are taken, of other libraries' records only that there was one, and of a traceback
the error's type and the places in files, never its message or the lines of code that it quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

MAX_ENTRIES = 20
MAX_FRAMES = 8
"""The innermost ones."""
MAX_MESSAGE = 300
OURS = ("engine", "umbrella_lsp")
"""Loggers whose messages are made to hold no text of the user's."""
WITHHELD = "(what another library said is left out; see the log)"

_RECORD = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) (?P<logger>[\w.]+) (?P<message>.*)"
)
_FRAME = re.compile(r'  File "(?P<file>[^"]+\.py)", line (?P<line>\d+), in [\w.<>]+')
_ERROR = re.compile(r"(?P<type>[A-Za-z_][\w.]{0,79})(?::.*)?")
_LEVELS = {"WARNING", "ERROR", "CRITICAL"}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One record of the log, with what is told of the error that it came with."""

    time: str
    level: str
    logger: str
    message: str
    error: str = ""
    """Its type."""
    frames: tuple[str, ...] = ()
    """Where it was raised, the innermost last: file:line."""


def last_errors(log: str) -> tuple[LogEntry, ...]:
    """The last `MAX_ENTRIES` warnings and errors of `log`, the newest last."""
    records: list[tuple[re.Match[str], list[str]]] = []
    for line in log.split("\n"):
        if record := _RECORD.fullmatch(line):
            records.append((record, []))
        elif records:
            records[-1][1].append(line)
    wanted = [each for each in records if each[0]["level"] in _LEVELS]
    return tuple(_entry(record, below) for record, below in wanted[-MAX_ENTRIES:])


def _entry(record: re.Match[str], below: Sequence[str]) -> LogEntry:
    """A record, and of the lines below it what a traceback says."""
    is_ours = record["logger"].partition(".")[0] in OURS
    message = _printable(record["message"])[:MAX_MESSAGE] if is_ours else WITHHELD
    error, frames, within = "", list[str](), False
    for line in below:
        if frame := _FRAME.fullmatch(line):
            within = True
            frames.append(f"{'/'.join(PurePath(frame['file']).parts[-2:])}:{frame['line']}")
        elif within and not line.startswith(" "):
            # The first such line names the error. What follows it may be more of its message.
            named = _ERROR.fullmatch(line)
            error, within = named["type"] if named else "", False
    return LogEntry(
        record["time"], record["level"], record["logger"], message, error, tuple(frames[-MAX_FRAMES:])
    )


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())
