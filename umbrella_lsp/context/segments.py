"""Segments as values that are compared, cut and counted. Pure; knows nothing of where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from engine.protocol import Segment, SegmentKind

MAX_CONTEXT_CHARS = 8_000
"""Of all segments beside prefix and suffix."""
MAX_REPEATED = 0.7
"""From this share of lines that the model sees already on, a text is not worth showing. Code that does
something alike has half of its lines in common and is worth it more than any other."""

_CODE = re.compile(r"\w\W*\w")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was found and not sent, and why."""

    kind: SegmentKind
    what: str
    """A path or a name."""
    why: str


def cut(lines: Iterable[str], max_chars: int) -> str:
    """The first of `lines`, whole, of which `max_chars` hold; blank ones at both ends are dropped."""
    kept: list[str] = []
    for line in lines:
        max_chars -= len(line) + 1
        if max_chars < -1:
            break
        kept.append(line.rstrip())
    return "\n".join(kept).strip("\n")


def code_lines(text: str) -> list[str]:
    """The lines of `text` that would be missed: not those of mere punctuation, and without indentation."""
    return [stripped for line in text.split("\n") if _CODE.search(stripped := line.strip())]


def same_place(one: Segment, other: Segment) -> bool:
    """Whether two segments show the same; their ranks may differ."""
    return (one.kind, one.path, one.text) == (other.kind, other.path, other.text)


class Chosen:
    """Segments that fit beside each other: none repeats another, and together they are not too long."""

    def __init__(self, *shown: str) -> None:
        """`shown` is what the model sees in any case."""
        self.segments: list[Segment] = []
        self.left_out: list[LeftOut] = []
        self._lines = {line for text in shown for line in code_lines(text)}
        self._left_chars = MAX_CONTEXT_CHARS

    def add(self, segment: Segment) -> bool:
        """Take in `segment` if it is worth it."""
        why = self._objection(segment)
        if why:
            self.left_out.append(LeftOut(segment.kind, segment.path, why))
            return False
        self.segments.append(segment)
        self._lines.update(code_lines(segment.text))
        self._left_chars -= len(segment.text)
        return True

    def _objection(self, segment: Segment) -> str:
        lines = code_lines(segment.text)
        if not lines:
            return "holds no code"
        if sum(line in self._lines for line in lines) >= MAX_REPEATED * len(lines):
            return "is shown already"
        return "is too much beside the rest" if len(segment.text) > self._left_chars else ""


def in_order_of(shown: Iterable[Segment], chosen: Iterable[Segment]) -> tuple[Segment, ...]:
    """`chosen`, those first that were shown before, in the order of then; the others as they come."""
    left = list(chosen)
    kept: list[Segment] = []
    for old in shown:
        kept += (again := [segment for segment in left if same_place(segment, old)])
        left = [segment for segment in left if segment not in again]
    return (*kept, *left)
