"""Whether a change of a document follows a suggestion that stands in it, and how far. Pure.

Told from the two texts alone, for editors put the same change in different words: as what was typed, as the
shortest difference, or as the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import Protocol

from umbrella_lsp.document import Edit
from umbrella_lsp.text import Text

CLOSERS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"', "'": "'", "`": "`"}
"""What an editor may add to a character by itself."""


class Followed(Protocol):
    """A suggestion, and how much of it stands in the document."""

    @property
    def start(self) -> int:
        """Where its text begins in the document."""
        ...

    @property
    def cursor(self) -> int:
        """Where what stands in the document ends."""
        ...

    @property
    def text(self) -> str:
        """All of it."""
        ...

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Texts that it may turn out to be instead."""
        ...

    @property
    def replaces(self) -> int:
        """Characters from the cursor on that it takes the place of."""
        ...

    @property
    def replaced(self) -> str:
        """What accepting has taken away, which an undo brings back."""
        ...


@dataclass(frozen=True, slots=True)
class Hull:
    """Where two texts may differ: from `start` on, and up to `end` of the first."""

    before: Text
    after: Text
    start: int
    end: int

    @staticmethod
    def of(before: Text, edits: Sequence[Edit], after: Text) -> Hull:
        length, start, kept = len(before), len(before), len(before)
        for edit in edits:
            start, kept = min(start, edit.start), min(kept, length - edit.end)
            length += len(edit.text) - (edit.end - edit.start)
        return Hull(before, after, start, max(start, len(before) - kept))

    @property
    def growth(self) -> int:
        return len(self.after) - len(self.before)

    def keeps_before(self, offset: int) -> bool:
        """Whether what stood before `offset` stands there yet."""
        return self.before.slice(self.start, offset) == self.after.slice(self.start, offset)

    def keeps_after(self, offset: int) -> bool:
        """Whether what stood from `offset` on is there yet, moved by `growth`."""
        moved, end = self.growth, self.end
        return self.before.slice(offset, end) == self.after.slice(offset + moved, end + moved)


@dataclass(frozen=True, slots=True)
class Step:
    """A change that agrees with a suggestion."""

    text: str
    """The suggestion that it agrees with."""
    reached: int
    """Characters of `text` that stand in the document after it."""
    removed: str = ""
    """What it took away right of the cursor."""
    closers: int = 0
    """Characters that the editor has added right of the cursor."""


def forward(run: Followed, hull: Hull) -> Step | None:
    """How the change follows the suggestion, or one of its alternatives, as far as it does.

    Of several readings the furthest counts.
    """
    at, done = run.cursor, run.cursor - run.start
    if not hull.keeps_before(at):
        return None
    right = hull.before.slice(at, at + run.replaces + 1)
    typed_over = 1 if right[:1] in CLOSERS.values() else 0
    found: list[Step] = []
    for text in (run.text, *run.alternatives):
        if not text.startswith(run.text[:done]):
            continue
        ahead = hull.after.slice(at, at + len(text) - done)
        agreed = agreed_length(ahead, text[done:])
        for removed in {0, run.replaces, typed_over}:
            reached = min(agreed, hull.growth + removed)
            closers = hull.growth + removed - reached
            added = hull.after.slice(at + reached, at + reached + closers)
            if reached < 0 or not _added_by_itself(text[done : done + reached], added):
                continue
            if (removed and not reached) or not hull.keeps_after(at + removed):
                continue
            found.append(Step(text, done + reached, right[:removed], closers))
    return max(found, key=lambda step: (step.reached, -step.closers), default=None)


def _added_by_itself(written: str, added: str) -> bool:
    """Whether an editor may have added `added` to `written`: closers, and a line of their own for them."""
    closers = {CLOSERS[char] for char in written if char in CLOSERS}
    blanks = " \t\r\n" if written.isspace() and "\n" in written else ""
    return all(char in closers or char in blanks for char in added)


def backward(run: Followed, hull: Hull) -> Step | None:
    """How the change takes back some of what was typed or accepted of the suggestion."""
    at, done = run.cursor, run.cursor - run.start
    pair = hull.before.slice(at - 1, at + 1)
    lost = int(pair[1:] != "" and CLOSERS.get(pair[0]) == pair[1:])  # With its opener, as it came.
    for closers, restored in ((0, ""), (0, run.replaced), (lost, "")):
        reached = done + hull.growth + closers - len(restored)
        back = run.start + reached
        if (
            0 <= reached < done
            and hull.keeps_before(back)
            and hull.after.slice(back, back + len(restored)) == restored
            and hull.keeps_after(at + closers)
        ):
            return Step(run.text, reached)
    return None


def grown(text: str, removed: str) -> str:
    """What `text` brings that was not there in `removed`, whose place it takes."""
    start = agreed_length(text, removed)
    text, removed = text[start:], removed[start:]
    end = agreed_length(text[::-1], removed[::-1])
    return text[: len(text) - end]


def agreed_length(one: str, other: str) -> int:
    """Characters that two texts have in common at their beginning."""
    return sum(takewhile(bool, map(eq, one, other)))


def is_key(text: str) -> bool:
    """Whether one key may have written `text`."""
    return len(text) == 1 or text.isspace()
