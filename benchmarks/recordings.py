"""Recorded typing: reads files of the editing-traces collection, and tells the document after every key.

The form is described in ``traces/README.md``. Knows nothing of language servers.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path

import msgspec

MAX_PAUSE_S = 2.0
"""Of recorded time: nobody has to wait for somebody else's lunch."""
USUAL_PAUSE_S = 0.2
"""Between two keys whose times nobody has noted."""
PAIRS = ("()", "[]", "{}", "<>", '""', "''", "``")
"""What editors insert whole for its first half, leaving the cursor inside."""

_GZIP = b"\x1f\x8b"
_LANGUAGES = {
    "svelte": ("svelte", ".svelte"),
    "rust": ("rust", ".rs"),
    "python": ("python", ".py"),
    "typescript": ("typescript", ".ts"),
    "javascript": ("javascript", ".js"),
    "java": ("java", ".java"),
    "cpp": ("cpp", ".cpp"),
    "paper": ("latex", ".tex"),
    "blog": ("markdown", ".md"),
    "patch": ("markdown", ".md"),
}
"""By a part of a recording's name: the editor's name of the language, and the ending of its files."""


class RecordingError(ValueError):
    """A file that cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Text in the place of other text."""

    at: int
    """Code points before it."""
    deleted: int
    inserted: str

    @property
    def deleted_end(self) -> int:
        """Where what it deletes ends."""
        return self.at + self.deleted

    @property
    def end(self) -> int:
        """Where what it has inserted ends."""
        return self.at + len(self.inserted)


@dataclass(frozen=True, slots=True)
class Transaction:
    """What one key did, or one command."""

    patches: tuple[Patch, ...]
    pause_s: float
    """Until the next one."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One document from its beginning on."""

    name: str
    language: str
    extension: str
    start: str
    transactions: tuple[Transaction, ...]
    end: str
    """The document after all transactions, as the file has it."""


@dataclass(frozen=True, slots=True)
class State:
    """The document after `number` transactions, and the cursor in it."""

    number: int
    text: str
    cursor: int


class _Recorded(msgspec.Struct):
    patches: list[tuple[int, int, str]]
    time: object = None
    parents: object = None


class _File(msgspec.Struct, kw_only=True):
    start: str = msgspec.field(name="startContent")
    end: str = msgspec.field(name="endContent", default="")
    transactions: list[_Recorded] = msgspec.field(name="txns")


def read_recording(path: Path, language: str = "") -> Recording:
    """The recording in `path`. `language` is an editor's name for it; guessed from the file's name if ''.

    Raises RecordingError for a file of another form, and OSError.
    """
    data = path.read_bytes()
    try:
        file = msgspec.json.decode(gzip.decompress(data) if data.startswith(_GZIP) else data, type=_File)
    except (msgspec.DecodeError, EOFError, gzip.BadGzipFile) as error:
        raise RecordingError(f"{path} is no recording of sequential editing: {error}") from error
    if any(recorded.parents for recorded in file.transactions):
        raise RecordingError(f"{path} is of several people at once; take its flattened form")
    name = path.name.removesuffix(".gz").removesuffix(".json")
    guessed, extension = _language(name)
    if language and language != guessed:
        guessed, extension = language, dict(_LANGUAGES.values()).get(language, ".txt")
    pauses = _pauses([_seconds(recorded.time) for recorded in file.transactions])
    transactions = (
        Transaction(tuple(Patch(*patch) for patch in recorded.patches), pause)
        for recorded, pause in zip(file.transactions, pauses, strict=True)
        if recorded.patches
    )
    return Recording(name, guessed, extension, file.start, tuple(transactions), file.end)


def states(recording: Recording, keys: int) -> Iterator[State]:
    """The document before the first transaction and after each of the first `keys`.

    Raises RecordingError for a patch that lies outside the text it is for.
    """
    text = recording.start
    yield State(0, text, len(text))
    for number, transaction in enumerate(recording.transactions[:keys], 1):
        for patch in transaction.patches:
            text = applied(text, patch)
        yield State(number, text, cursor_after(recording.transactions, number))


def applied(text: str, patch: Patch) -> str:
    """`text` with `patch`. Raises RecordingError if it lies outside."""
    if patch.at < 0 or patch.deleted < 0 or patch.deleted_end > len(text):
        raise RecordingError(
            f"a patch at {patch.at} that deletes {patch.deleted} lies outside a text of {len(text)}"
        )
    return text[: patch.at] + patch.inserted + text[patch.deleted_end :]


def cursor_after(transactions: Sequence[Transaction], number: int) -> int:
    """Where the cursor is after `number` transactions [at least 1]: behind what came last.

    Inside of a pair, though, if what comes next is written there.
    """
    last = transactions[number - 1].patches[-1]
    if last.inserted in PAIRS and number < len(transactions):
        inside = last.at + 1
        if transactions[number].patches[0].at == inside:
            return inside
    return last.end


def padded(recording: Recording, lines: int) -> Recording:
    """The same typing amid at least `lines` lines of the same kind, half of them before it.

    Raises RecordingError if the recording has no text to make them of.
    """
    text = recording.end or recording.start
    if not text.strip():
        raise RecordingError(f"{recording.name} has no text to pad it with")
    newline = "\r\n" if "\r\n" in text else "\n"
    text = text if text.endswith(newline) else text + newline
    some = text * -(-lines // (2 * text.count(newline)))
    transactions = tuple(
        replace(each, patches=tuple(replace(patch, at=patch.at + len(some)) for patch in each.patches))
        for each in recording.transactions
    )
    around = (some + inner + newline + some for inner in (recording.start, recording.end))
    return replace(recording, start=next(around), transactions=transactions, end=next(around))


def _language(name: str) -> tuple[str, str]:
    words = re.findall(r"[a-z]+", name.lower())
    for part, found in _LANGUAGES.items():
        if any(word.startswith(part) for word in words):
            return found
    return "plaintext", ".txt"


def _seconds(time: object) -> float | None:
    """A time as it was written down; None if none was."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else None
    except (ValueError, OverflowError):
        return None


def _pauses(times: Sequence[float | None]) -> list[float]:
    """Seconds after each of `times` until the next. Keys of one time share what passes until another."""
    groups = [(time, len(list(group))) for time, group in groupby(times)]
    pauses: list[float] = []
    for (time, count), (following, _) in zip(groups, [*groups[1:], (None, 0)], strict=True):
        passed = following - time if time is not None and following is not None else 0.0
        pauses += [min(passed, MAX_PAUSE_S) / count if passed > 0 else USUAL_PAUSE_S] * count
    return pauses
