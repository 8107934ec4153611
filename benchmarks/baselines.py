"""What needs no model: the nearest similar place copied, and what is most frequent. Pure.

Both see the lines that the model is shown, above the cursor and below it, and no others. Where a line
has been begun, a place is like the cursor's if the longest ending of what has been typed stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from benchmarks.cursors import Cursor, block_at
from umbrella_lsp.document import indent_of


@dataclass(frozen=True, slots=True)
class _Place:
    """A line of code among the visible ones on one side of the cursor."""

    distance: int
    lines: Sequence[str]
    at: int

    @property
    def line(self) -> str:
        return self.lines[self.at]

    @property
    def above(self) -> str:
        """The line of code before it, without its indentation; '' if none is visible."""
        return _last_code(self.lines[: self.at])

    def answer(self, cursor: Cursor) -> str:
        """The line, or its block, as it would be written at the cursor."""
        if cursor.position != "block":
            return self.line.strip()
        indent = indent_of(self.line)
        first, *others = block_at("\n".join(self.lines[self.at :]).lstrip(), indent).split("\n")
        return "\n".join([first, *(cursor.before + line[indent:] if line.strip() else "" for line in others)])


def _last_code(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _places(cursor: Cursor) -> list[_Place]:
    """The visible lines of code, the nearest first."""
    above, below = cursor.prefix.split("\n")[:-1], cursor.suffix.split("\n")[1:]
    places = [_Place(len(above) - at, above, at) for at in range(len(above))]
    places += [_Place(at + 1, below, at) for at in range(len(below))]
    return sorted((place for place in places if place.line.strip()), key=lambda place: place.distance)


def _continuations(cursor: Cursor) -> list[str]:
    """What follows the longest ending of the begun line wherever that stands, the nearest first."""
    begun = cursor.before.lstrip()
    lines = [place.line for place in _places(cursor)]
    for start in range(len(begun)):
        ending = begun[start:]
        if found := [line.rpartition(ending)[2] for line in lines if ending in line]:
            return found
    return []


def copied(cursor: Cursor) -> str:
    """What follows the nearest place like the cursor's.

    On a new line such a place is where the line above is most like the one above the cursor.
    """
    if cursor.before.strip():
        return next(iter(_continuations(cursor)), "")
    matcher = SequenceMatcher()
    matcher.set_seq2(_last_code(cursor.prefix.split("\n")[:-1]))

    def likeness(place: _Place) -> float:
        matcher.set_seq1(place.above)
        return matcher.ratio()

    nearest = max((place for place in _places(cursor) if place.above), key=likeness, default=None)
    return nearest.answer(cursor) if nearest else ""


def most_frequent(cursor: Cursor) -> str:
    """What most often follows places like the cursor's; on a new line, the commonest one indented alike."""
    if cursor.before.strip():
        answers = _continuations(cursor)
    else:
        places = _places(cursor)
        alike = [place for place in places if indent_of(place.line) == len(cursor.before)]
        answers = [place.answer(cursor) for place in alike or places]
    return Counter(answers).most_common(1)[0][0] if answers else ""
