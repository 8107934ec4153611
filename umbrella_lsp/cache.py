"""Suggestions that were made lately, and what is left of them after the user has typed along. Pure.

Knows nothing of engines or settings. An entry answers only where the text on both sides of the cursor
is, to the character, what it was made for plus what was typed of it since.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from umbrella_lsp.context import CLOSERS
from umbrella_lsp.document import Document, normalised
from umbrella_lsp.postprocess import without_suffix_overlap

MAX_ENTRIES = 250
MAX_CLOSERS = 4


@dataclass(frozen=True, slots=True)
class _Entry:
    """A suggestion, where it was made, and digests of the text on both sides."""

    offset: int
    text: str
    before: int
    after: int


class CompletionCache:
    """The last `MAX_ENTRIES` suggestions over all documents. Used from one thread."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, int, int], _Entry] = OrderedDict()

    def put(self, document: Document, offset: int, text: str) -> None:
        """Remember that `text`, with LF line ends, was suggested at `offset`."""
        entry = _Entry(offset, text, hash(document.text[:offset]), hash(document.text[offset:]))
        key = (document.uri, entry.before, entry.after)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    def get(self, document: Document, offset: int) -> str:
        """What is left of a suggestion of which everything up to `offset` has been typed since, or ''.

        Closers that an editor has put behind the cursor meanwhile are not given twice. The latest
        suggestion wins.
        """
        for (uri, _, _), entry in reversed(self._entries.items()):
            if uri != document.uri or not entry.offset <= offset <= entry.offset + 2 * len(entry.text):
                continue
            typed = normalised(document.text[entry.offset : offset])
            if len(typed) >= len(entry.text) or not entry.text.startswith(typed):
                continue
            closers = self._closers_added(document, offset, entry)
            if closers is None or hash(document.text[: entry.offset]) != entry.before:
                continue
            return without_suffix_overlap(entry.text[len(typed) :], closers)
        return ""

    def clear(self) -> None:
        """Forget everything, as when settings change what would be suggested."""
        self._entries.clear()

    @staticmethod
    def _closers_added(document: Document, offset: int, entry: _Entry) -> str | None:
        """The closers in front of the suffix `entry` was made for, or None if the suffix is another."""
        for size in range(MAX_CLOSERS + 1):
            added = document.text[offset : offset + size]
            if added.strip(CLOSERS):
                return None
            if hash(document.text[offset + size :]) == entry.after:
                return added
        return None
