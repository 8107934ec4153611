"""Suggestions that were made lately, what they were made for, and what is left of them. Pure.

Knows nothing of engines or settings. What is remembered answers only where the text on both sides of the
cursor is, to the character, what it was made for plus what was typed of it since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from umbrella_lsp.document import Document
from umbrella_lsp.fit.brackets import CLOSERS
from umbrella_lsp.fit.postprocess import Fitted
from umbrella_lsp.text import normalised

MAX_ENTRIES = 250
MAX_CLOSERS = 4
MAX_RUN = 20_000
"""Characters: no suggestion is as long."""

Tier = Literal["target", "draft"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A cursor in one state of a document: where it is, and digests of the text on both sides."""

    uri: str
    length: int
    """Of the document, in code points."""
    offset: int
    before: int
    after: int

    @staticmethod
    def at(document: Document, offset: int) -> Anchor:
        """The cursor at `offset`."""
        content = document.content
        digests = content.digest_before(offset), content.digest_after(offset)
        return Anchor(document.uri, len(content), offset, *digests)

    def run_to(self, document: Document, offset: int) -> Run | None:
        """What was typed to get from here to `offset`, or None if anything else was changed, too."""
        content = document.content
        if document.uri != self.uri or not self.offset <= offset <= len(content):
            return None
        if offset - self.offset > MAX_RUN:  # Not worth copying.
            return None
        if content.digest_before(self.offset) != self.before:
            return None
        typed = normalised(content.slice(self.offset, offset))
        for size in range(MAX_CLOSERS + 1):
            closers = content.slice(offset, min(offset + size, len(content)))
            if len(closers) < size or closers.strip(CLOSERS):
                return None
            if content.digest_after(offset + size) == self.after:
                return Run(typed, closers)
        return None

    def runs(self, document: Document) -> Iterator[Run]:
        """All that may have been typed here to get to `document`, wherever its cursor is."""
        end = self.offset + len(document.content) - self.length
        for offset in range(end, max(end - MAX_CLOSERS, self.offset) - 1, -1):
            run = self.run_to(document, offset)
            if run is not None:
                yield run


@dataclass(frozen=True, slots=True)
class Run:
    """Text typed at one place, with LF line ends, and the closers that an editor has put behind it."""

    typed: str
    closers: str


@dataclass(frozen=True, slots=True)
class Made:
    """One text that was suggested, or is being made."""

    fitted: Fitted
    marks: tuple[tuple[int, float], ...] = ()
    """Where each of its tokens begins in the text, and its log-probability."""

    def likelihood_after(self, typed: int) -> float:
        """The log-probability of the first line of code that is left once `typed` characters are there."""
        text = self.fitted.text
        begin = len(text) - len(text[typed:].lstrip("\n"))
        line_end = text.find("\n", begin)
        end = line_end if line_end >= 0 else len(text)
        untils = [*(at for at, _ in self.marks[1:]), end + 1]
        marks = zip(self.marks, untils, strict=False)
        return sum(logprob for (at, logprob), until in marks if until > typed and at <= end)


@dataclass(slots=True)
class Entry:
    """What was suggested at one place: the main text first, then its alternatives."""

    anchor: Anchor
    tier: Tier = "target"
    texts: dict[int, Made] = field(default_factory=dict[int, Made])
    """By their number among those asked for; none of them is empty, and no two are alike."""
    is_final: bool = False
    """Nothing more comes."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a suggestion, for the cursor as it is now."""

    fitted: Fitted
    entry: Entry = field(compare=False)
    typed: int
    """Characters of it that are there already."""
    logprob: float
    """Of its first line."""


class Memory:
    """The last `MAX_ENTRIES` places where something was suggested, in all documents. Used from one thread."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Anchor, Tier], Entry] = OrderedDict()

    def entry(self, anchor: Anchor, tier: Tier) -> Entry:
        """A new entry, to be filled as texts come, in the place of an older one."""
        entry = Entry(anchor, tier)
        self._entries.pop((anchor, tier), None)
        self._entries[anchor, tier] = entry
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return entry

    def forget(self, entry: Entry) -> None:
        """Drop what never came to anything."""
        if self._entries.get((entry.anchor, entry.tier)) is entry:
            del self._entries[entry.anchor, entry.tier]

    def left(self, document: Document, offset: int) -> Iterator[Left]:
        """What is left at `offset` of each text that led there, none of them empty.

        The target's before the draft's, then the latest first, and of one place in their own order.
        """
        for entry in self._of(document.uri, offset):
            # Digests of a long document take longer than a look at what was typed, if that is short.
            longest = max((len(made.fitted.text) for made in entry.texts.values()), default=0)
            if offset - entry.anchor.offset > 2 * longest:  # A line's end may take two characters.
                continue
            typed = normalised(document.content.slice(entry.anchor.offset, offset))
            if not any(made.fitted.text.startswith(typed) for made in entry.texts.values()):
                continue
            run = entry.anchor.run_to(document, offset)
            if run is None:
                continue
            for made in entry.texts.values():
                rest = left_of(made.fitted, run)
                if rest is not None and rest.text:
                    typed = len(run.typed)
                    yield Left(rest, entry, typed, made.likelihood_after(typed))

    def is_empty_at(self, document: Document, offset: int) -> bool:
        """Whether the target was asked at `offset` of this very text, and had nothing to say."""
        entry = self._entries.get((Anchor.at(document, offset), "target"))
        return entry is not None and entry.is_final and not entry.texts

    def clear(self) -> None:
        """Forget everything, as when settings change what would be suggested."""
        self._entries.clear()

    def _of(self, uri: str, offset: int) -> list[Entry]:
        near = [
            entry
            for entry in reversed(self._entries.values())
            if entry.anchor.uri == uri and entry.anchor.offset <= offset
        ]
        return sorted(near, key=lambda entry: entry.tier != "target")


def left_of(fitted: Fitted, run: Run) -> Fitted | None:
    """What is left of `fitted` after `run`; None if something else was typed.

    Closers that an editor has put behind the cursor meanwhile are not given twice: they stay where they
    end the text, and are replaced where it goes on behind them.
    """
    if not fitted.text.startswith(run.typed):
        return None
    rest = fitted.text[len(run.typed) :]
    if not run.closers:
        return Fitted(rest, fitted.replaces)
    size, closed = len(run.closers), closed_at(rest, run.closers)
    if len(closed) == size:
        if fitted.replaces or closed != list(range(len(rest) - size, len(rest))):
            return Fitted(rest, size + fitted.replaces)
    elif fitted.replaces:
        return None  # It stops before it would close them, and what lies behind them cannot be replaced.
    kept = rest[: closed[0]] if closed else rest
    return Fitted(kept if kept.strip() else "")


def closed_at(text: str, closers: str) -> list[int]:
    """Where `text` has `closers`, in this order, beside what it opens and closes: as many as it has."""
    opened = list[str]()
    found = list[int]()
    for at, char in enumerate(text):
        if len(found) == len(closers):
            break
        if char in "([{":
            opened.append(char)
        elif opened and opened[-1] + char in ("()", "[]", "{}"):
            opened.pop()
        elif char == closers[len(found)]:
            found.append(at)
    return found
