"""What must never be shown: text that does not fit the document, and text that is there already. Pure.

What the recording itself goes on to say is never held against a suggestion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from benchmarks.client_document import Encoding, line_span, offset_on_line

MIN_CHARACTERS = 3
"""Fewer may be alike by chance."""
PAIRS = {")": "(", "]": "[", "}": "{"}
QUOTES = "\"'`"

_BRACKET = re.compile(r"[()\[\]{}]")


@dataclass(frozen=True, slots=True)
class Placed:
    """A suggestion as an editor puts it into its document."""

    start: int
    """Offsets of what it replaces."""
    end: int
    cursor: int
    text: str

    @property
    def added(self) -> str:
        """What comes at the cursor, if what is replaced left of it is written again."""
        return self.text[self.cursor - self.start :]


def placed(text: str, cursor: int, item: dict[str, Any], encoding: Encoding) -> Placed | None:
    """`item` in `text`. None if its range is not on the cursor's line, or does not touch the cursor."""
    inserted = item["insertText"]
    where = item.get("range")
    if where is None:
        return Placed(cursor, cursor, cursor, inserted)
    start, end = (offset_on_line(text, cursor, where[key], encoding) for key in ("start", "end"))
    if start is None or end is None or not start <= cursor <= end:
        return None
    return Placed(start, end, cursor, inserted)


def stale_characters(text: str, place: Placed, coming: str) -> int:
    """Characters of a suggestion that were typed before it came: it was made for an earlier text.

    Those are what it writes over something else left of the cursor, and a beginning that stands left of the
    cursor already, without which it would say what comes.
    """
    covered = text[place.start : place.cursor]
    if not place.text.startswith(covered):
        return len(covered)
    added = place.added
    wanted = min(2, len(coming))
    if not wanted or common(added, coming) >= wanted:
        return 0
    before = text[line_span(text, place.cursor)[0] : place.cursor]
    repeated = (size for size in range(len(before), 0, -1) if added.startswith(before[-size:]))
    return next((size for size in repeated if common(added[size:], coming) >= wanted), 0)


def duplicated_characters(text: str, place: Placed, coming: str) -> int:
    """Characters that stand twice once `place` is accepted, beyond those that `coming` has twice itself."""
    if coming.startswith(place.added):
        return 0
    alike = "\n".join(coming.split("\n")[: place.added.count("\n") + 1])
    truth = Placed(place.cursor, place.cursor, place.cursor, alike)
    return max(0, _doubled(text, place) - _doubled(text, truth))


def common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _doubled(text: str, place: Placed) -> int:
    added = place.added
    if not added:
        return 0
    line_start, line_end = line_span(text, place.cursor)
    before, after = text[line_start : place.cursor], text[place.end : line_end]
    following = text[line_end:].splitlines()[1:200]
    replaced = text[place.cursor : place.end]
    lost = _closers(before, added, replaced, after)
    behind = max(lost, _overlap(added, after, 1 if lost else MIN_CHARACTERS))
    if not behind:
        behind = _next_closer(text, place, [after, *following])
    return (
        behind + _quote(before, added, replaced, after) + _repeated_lines(before, added, [after, *following])
    )


def _overlap(added: str, after: str, at_least: int) -> int:
    """The longest end of `added` that the rest of the line begins with, if it is not so by chance."""
    for size in range(min(len(added), len(after)), at_least - 1, -1):
        if added.endswith(after[:size]) and (at_least < MIN_CHARACTERS or _is_code(after[:size])):
            return size
    return 0


def _closers(before: str, added: str, replaced: str, after: str) -> int:
    """Closers that have lost their opener, on a line that had one for each of its closers of that kind."""
    had = _unopened(before + replaced + after)
    lost = _unopened(before + added + after)
    return sum(count for closer, count in lost.items() if closer in after and not had[closer])


def _next_closer(text: str, place: Placed, rest: Sequence[str]) -> int:
    """Closers in `added` that had no opener left for them, of the kind that stands next in the document."""
    next_character = next((line.strip()[0] for line in rest if line.strip()), "")
    if next_character not in PAIRS:
        return 0
    lost = _unopened(text[: place.cursor] + place.added + text[place.end :]) - _unopened(text)
    return max(0, lost[next_character])


def _unopened(text: str) -> Counter[str]:
    """Closing brackets without an opening one, by kind."""
    depth, found = Counter[str](), Counter[str]()
    for match in _BRACKET.finditer(text):
        bracket = match.group()
        if bracket not in PAIRS:
            depth[bracket] += 1
        elif depth[PAIRS[bracket]]:
            depth[PAIRS[bracket]] -= 1
        else:
            found[bracket] += 1
    return found


def _quote(before: str, added: str, replaced: str, after: str) -> int:
    """1 if `added` ends with the quote that closes the string which the cursor is in."""
    quote = after[:1]
    if not quote or quote not in QUOTES or not added.endswith(quote):
        return 0
    return int(
        (before + replaced + after).count(quote) % 2 == 0 and (before + added + after).count(quote) % 2
    )


def _repeated_lines(before: str, added: str, rest: Sequence[str]) -> int:
    """Characters of whole lines at the end of `added` that stand, in this order, right behind it."""
    whole = added.splitlines() if not before.strip() else added.splitlines()[1:]
    lines = [line.strip() for line in whole if line.strip()]
    standing = [line.strip() for line in rest if line.strip()]
    for count in range(min(len(lines), len(standing)), 0, -1):
        repeated = lines[-count:]
        if repeated == standing[:count] and any(map(_is_code, repeated)):
            # What stands on the cursor's own line has been counted as its rest.
            return sum(
                len(line) for line in (repeated[1:] if rest[0].strip() else repeated) if _is_code(line)
            )
    return 0


def _is_code(text: str) -> bool:
    return len(text.strip()) >= MIN_CHARACTERS and any(character.isalnum() for character in text)
