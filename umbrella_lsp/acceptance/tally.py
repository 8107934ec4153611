"""How many suggestions met which fate, kept in a file of the user's own. Knows nothing of how fates are told.

The file holds counts by day and tag: no text, no names, no paths. It is never sent anywhere. Any number of
servers may add to it: each reads it anew, adds its own and puts it back whole, under a lock. Days that have
become old are summed up, so it stays small.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated

import msgspec
from filelock import FileLock

from umbrella_lsp.acceptance.watcher import EVERYTHING, OUTCOMES, Fate

SAVE_EVERY_S = 60.0
LOCK_TIMEOUT_S = 1.0
MAX_DAYS = 90
MAX_BYTES = 4_000_000
"""A file beyond this size is none of ours: 90 days of every tag there is stay far below it."""
EARLIER = "earlier"
"""What the days before the last `MAX_DAYS` are summed up under; sorts after every date."""
PRIOR_RATE, PRIOR_WEIGHT = 0.3, 10.0
"""What is taken for known at first: that three of ten are accepted, as firmly as if ten had been seen."""

_log = logging.getLogger(__name__)

Count = Annotated[int, msgspec.Meta(ge=0)]
Tag = Annotated[
    str, msgspec.Meta(pattern=r"^all$|^(language|tier|source|shape|confidence):[a-z0-9.]{1,32}\Z")
]
Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}\Z|^earlier\Z")]


@dataclass(frozen=True, slots=True)
class Counts:
    """Opportunities by outcome, and what was accepted of them."""

    accepted: Count = 0
    partly: Count = 0
    typed: Count = 0
    dismissed: Count = 0
    contradicted: Count = 0
    left: Count = 0
    words: Count = 0
    lines: Count = 0
    saved: Count = 0

    @property
    def offered(self) -> int:
        """Opportunities that have ended."""
        return sum(getattr(self, outcome) for outcome in OUTCOMES)

    @property
    def taken(self) -> int:
        """Those of which something was accepted."""
        return self.accepted + self.partly

    @property
    def saved_each(self) -> float:
        """Characters saved per opportunity."""
        return self.saved / self.offered if self.offered else 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, astuple(self), astuple(other)))

    @staticmethod
    def of(fate: Fate) -> Counts:
        return Counts(words=fate.words, lines=fate.lines, saved=fate.saved, **{fate.outcome: 1})


Days = dict[Day, dict[Tag, Counts]]


@dataclass(frozen=True, slots=True)
class _File:
    """What the file holds."""

    days: Days


class UnreadableTally(Exception):
    """The file is there and cannot be read as counts."""


def user_file() -> Path | None:
    """``umbrella-lsp/acceptance.json`` in ``$XDG_DATA_HOME`` or ``~/.local/share``; None without a home."""
    # Path.home() raises for a user without a home, as in many a container.
    base = Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"))  # noqa: PTH111
    return base / "umbrella-lsp" / "acceptance.json" if base.is_absolute() else None


def read_days(file: Path) -> Days:
    """What `file` has counted; nothing if there is none. Raises OSError and UnreadableTally."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    try:
        if len(data) > MAX_BYTES:
            raise ValueError
        return msgspec.json.decode(data, type=_File).days
    except ValueError as error:  # msgspec's own errors are such
        raise UnreadableTally from error


def totals(days: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """The sums over `days`, by tag."""
    found: dict[str, Counts] = {}
    for day in days:
        for tag, counts in day.items():
            found[tag] = found.get(tag, Counts()) + counts
    return found


def merged(*parts: Days) -> Days:
    """The sums of `parts`, the last `MAX_DAYS` days apart and those before together."""
    dates = sorted({day for part in parts for day in part} - {EARLIER})
    recent = dates[-MAX_DAYS:]
    days = {day: totals(part.get(day, {}) for part in parts) for day in recent}
    old = totals(counts for part in parts for day, counts in part.items() if day not in recent)
    return {**days, EARLIER: old} if old else days


def _today() -> str:
    return datetime.now(UTC).astimezone().date().isoformat()


class Tally:
    """Counts fates: in memory, and in a file if there is one. Used from one event loop."""

    def __init__(self, file: Path | None, today: Callable[[], str] = _today) -> None:
        self._file = file
        self._today = today
        self._read: Mapping[str, Counts] | None = None
        """The file's totals as last read. None: not yet."""
        self._new: Days = {}
        """Not in the file yet."""
        self._unkept: Mapping[str, Counts] = {}
        """Counted while there was no file; never to be kept."""
        self._complained = False

    def configure(self, file: Path | None) -> None:
        """Keep what is counted from now on in `file`, or, if that is None, in memory alone.

        Told to stop, it keeps nothing that is not in the file already.
        """
        if file != self._file:
            self._unkept = totals([self._unkept, *self._new.values()])
            self._file, self._read, self._new = file, None, {}

    def add(self, fate: Fate) -> None:
        """Count `fate`, today."""
        day = self._new.setdefault(self._today(), {})
        for tag in fate.tags:
            day[tag] = day.get(tag, Counts()) + Counts.of(fate)

    def acceptance_rate(self, tag: str = EVERYTHING) -> float:
        """The chance that something of a suggestion tagged so is accepted, 0 to 1, as far as is known.

        The mean of a beta distribution: its prior is the rate over all suggestions, whose own prior is
        `PRIOR_RATE`, each as if it had been seen `PRIOR_WEIGHT` times.
        """
        rate = PRIOR_RATE
        for one in dict.fromkeys((EVERYTHING, tag)):
            everything = (self._unkept, self._read or {}, *self._new.values())
            seen = reduce(add, (counts.get(one, Counts()) for counts in everything))
            rate = (seen.taken + PRIOR_WEIGHT * rate) / (seen.offered + PRIOR_WEIGHT)
        return rate

    async def run(self) -> None:
        """Save at intervals, until cancelled; the last time is for the caller to ask for."""
        while True:
            await self.save()
            await asyncio.sleep(SAVE_EVERY_S)

    async def save(self) -> None:
        """Add what is new to the file. Where that fails it stays in memory, and the log says so once."""
        file, new = self._file, self._new
        if file is None or (self._read is not None and not new):
            return
        self._new = {}
        try:
            self._read = await asyncio.to_thread(_add_to, file, new)
        except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
            self._new = merged(new, self._new)
            if not self._complained:
                self._complained = True
                _log.warning("what becomes of suggestions cannot be kept in a file: %s", type(error).__name__)


def _add_to(file: Path, new: Days) -> dict[str, Counts]:
    """Add `new` to `file`: its totals then. Raises OSError, also where the lock is not to be had."""
    if not new and not file.exists():
        return {}
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S, mode=0o600):
        try:
            days = read_days(file)
        except UnreadableTally:
            aside = file.with_suffix(".unreadable")
            file.replace(aside)
            _log.warning("%s held no counts; it is now called %s", file.name, aside.name)
            days = {}
        if new:
            days = merged(days, new)
            _replace(file, msgspec.json.encode(_File(days)))
    return totals(days.values())


def _replace(file: Path, data: bytes) -> None:
    """Put `data` in the place of `file`, for the user's eyes only, and never in part."""
    part = file.with_suffix(f".{os.getpid()}")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
