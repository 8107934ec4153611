"""Ranges of documents that are likely to matter at a cursor: edited lately, viewed lately, similar. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

from engine.protocol import Segment
from umbrella_lsp.activity import LineRange, Recent
from umbrella_lsp.context.segments import cut
from umbrella_lsp.context.windows import Window
from umbrella_lsp.document import Document
from umbrella_lsp.text import normalised

MAX_EDITS = 3
MAX_EDIT_LINES = 10
MARGIN_LINES = 1
MAX_SNIPPETS = 3
SNIPPET_LINES = 16
MAX_CHARS = 600
MAX_DOCUMENTS = 8
FOCUS_LINES = 96
"""How far around the places the user was at a document is searched."""
MAX_FOCUSES = 3
MIN_SIMILARITY = 0.15
EDIT_RANK, RANK_STEP = 0.55, 0.01
SNIPPET_RANK, SIMILARITY_RANK = 0.2, 0.3
"""A snippet's rank is the first, and the second times its similarity."""

_IDENTIFIER = re.compile(r"[^\W\d]\w{2,}")
NameOf = Callable[[str], str]
"""How the model is told a document's path."""


def edited(window: Window, recent: Recent, name_of: NameOf) -> Iterator[Segment]:
    """What was edited lately, as it is now, newest first."""
    for number, place in enumerate(_offered_edits(window, recent)):
        last = min(place.last + MARGIN_LINES, place.document.content.line_count - 1)
        # People write downwards: of a long range the end is the newest.
        first = max(place.first - MARGIN_LINES, last + 1 - MAX_EDIT_LINES, 0)
        rank = EDIT_RANK - number * RANK_STEP
        yield _segment("edit", place.document, first, last, name_of, rank)


def similar(window: Window, recent: Recent, name_of: NameOf) -> Iterator[Segment]:
    """Pieces of open documents, around where the user was, that share most names with the cursor's place.

    Similarity is Jaccard's: the names that both have, by the names that either has.
    """
    around = _names(window.around)
    taken = _offered_edits(window, recent)
    rated: list[tuple[float, LineRange]] = []
    for document in recent.documents[:MAX_DOCUMENTS]:
        for piece in _pieces(document, recent):
            if _is_shown(piece, window) or any(_overlap(piece, other) for other in taken):
                continue
            names = _names(document.content.slice(*_offsets(piece)))
            similarity = len(names & around) / max(1, len(names | around))
            if similarity >= MIN_SIMILARITY:
                rated.append((similarity, piece))
    rated.sort(key=lambda pair: -pair[0])
    chosen: list[LineRange] = []
    for similarity, piece in rated:
        if len(chosen) == MAX_SNIPPETS:
            return
        if not any(_overlap(piece, other) for other in chosen):
            chosen.append(piece)
            rank = SNIPPET_RANK + SIMILARITY_RANK * similarity
            yield _segment("snippet", piece.document, piece.first, piece.last, name_of, rank)


def _offered_edits(window: Window, recent: Recent) -> list[LineRange]:
    ranges = (place.lines() for place in recent.edits)
    return list(islice((place for place in ranges if not _is_shown(place, window)), MAX_EDITS))


def _pieces(document: Document, recent: Recent) -> Iterator[LineRange]:
    """Overlapping pieces of a document around where the user was last, or of its beginning."""
    places = [place for place in (*recent.views, *recent.edits) if place.document.uri == document.uri]
    step = SNIPPET_LINES // 2
    starts: set[int] = set()
    for line in [place.lines().first for place in places[:MAX_FOCUSES]] or [0]:
        first = max(0, line - FOCUS_LINES // 2) // step * step
        starts.update(range(first, min(first + FOCUS_LINES, document.content.line_count), step))
    last = document.content.line_count - 1
    for start in sorted(starts):
        yield LineRange(document, start, min(start + SNIPPET_LINES - 1, last))


def _segment(
    kind: Literal["edit", "snippet"], document: Document, first: int, last: int, name_of: NameOf, rank: float
) -> Segment:
    lines = (normalised(document.content.line(number)) for number in range(first, last + 1))
    path = name_of(document.path)
    return Segment(kind, cut(lines, MAX_CHARS), path, document.language, rank, "volatile")


def _offsets(piece: LineRange) -> tuple[int, int]:
    content = piece.document.content
    return content.line_start(piece.first), content.line_start(piece.last + 1)


def _names(text: str) -> frozenset[str]:
    return frozenset(_IDENTIFIER.findall(text))


def _is_shown(place: LineRange, window: Window) -> bool:
    return place.document.uri == window.document.uri and window.shows(place.first, place.last)


def _overlap(one: LineRange, other: LineRange) -> bool:
    return one.document.uri == other.document.uri and one.first <= other.last and other.first <= one.last
