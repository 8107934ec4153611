"""A request, what was found for it and what became of it, as values. Knows no LSP types."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from engine.protocol import SegmentFate, Timings, TokenCounts
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.document import Document
from umbrella_lsp.generation import Generation, Stop
from umbrella_lsp.memory import Anchor, Left, Tier

_NO_TIMINGS = Timings()
_NO_TOKENS = TokenCounts()

Reason = Literal[
    "suggested",
    "nothing",
    "unsure",
    "inside a word",
    "not now",
    "outdated",
    "disabled",
    "other language",
    "secret",
    "too large",
]
"""unsure: there is a text, but the target itself does not think it likely.
other language: the settings leave it out or, where nobody asked, the model was not made for it.
not now: the target takes so long that it is not worth asking here.
outdated: the document, or what the user has chosen, has changed so that nothing made for it fits.
"""
Source = Literal["cache", "kept", "new", "none"]
"""Where an answer came from: what was remembered, a text that was on its way already, or one begun for it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What an editor's own completion list would put between two offsets of one line."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text, in the document's own line ending, for a range that stays on one line."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    document: Document
    """What the offsets are in: the document as it is by now, if that is not the one that was asked about."""
    reason: Reason
    suggestions: tuple[Suggestion, ...] = ()
    """The best first."""
    source: Source = "none"
    tier: Tier = "target"
    confidence: float | None = None
    """The probability of the best one's first line, if it is known."""
    context: CompletionContext | None = None
    stop: Stop | None = None
    raw: str = ""
    """The main text as the engine gave it."""
    fates: tuple[SegmentFate, ...] = ()
    timings: Timings = _NO_TIMINGS
    tokens: TokenCounts = _NO_TOKENS
    context_ms: float = 0.0
    server_ms: float = 0.0
    """Spent in front of the engine, rather than on waiting for it."""
    total_ms: float = 0.0

    @property
    def suggestion(self) -> Suggestion | None:
        """The best one."""
        return self.suggestions[0] if self.suggestions else None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: a cursor, and how to see what becomes of its document meanwhile."""

    document: Document
    offset: int
    invoked: bool
    latest: Callable[[], Document | None]

    @property
    def has_moved_on(self) -> bool:
        """Whether the document is not what it was."""
        now = self.latest()
        return now is None or now.content is not self.document.content

    def now(self) -> Asked | None:
        """The same for the document as it is, with the cursor behind what has been typed there since.

        None where the document is closed, where anything else has changed, or where the cursor may be in
        front of a closer just as well as behind it.
        """
        document = self.latest()
        if document is None or document.content is self.document.content:
            return self if document else None
        runs = [*Anchor.at(self.document, self.offset).runs(document)]
        if len(runs) != 1:
            return None
        grown = len(document.content) - len(self.document.content)
        return replace(self, document=document, offset=self.offset + grown - len(runs[0].closers))


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for a request."""

    reason: Reason
    document: Document
    offset: int
    lefts: tuple[Left, ...] = ()
    source: Source = "none"
    generation: Generation | None = None
    context_ms: float = 0.0
    waited_ms: float = 0.0

    def outcome(
        self, total_ms: float, document: Document | None = None, selection: Selection | None = None
    ) -> Outcome:
        """This in words; in those of `document`, whose `selection` it goes on from, if there is one."""
        generation, best = self.generation, self.lefts[0] if self.lefts else None
        found = Outcome(
            document or self.document,
            self.reason,
            tuple(self._suggestion(left, selection) for left in self.lefts),
            self.source,
            best.entry.tier if best else "target",
            math.exp(best.logprob) if best else None,
            context_ms=self.context_ms,
            total_ms=total_ms,
            server_ms=total_ms - self.waited_ms,
        )
        if generation is None:
            return found
        return replace(
            found,
            context=generation.place.context,
            stop=generation.stop,
            raw=generation.raw,
            fates=generation.fates,
            timings=generation.timings,
            tokens=generation.tokens,
            server_ms=found.server_ms + generation.fit_ms,
        )

    def _suggestion(self, left: Left, selection: Selection | None) -> Suggestion:
        text = left.fitted.text.replace("\n", self.document.line_ending)
        if selection is None:
            return Suggestion(text, self.offset, self.offset + left.fitted.replaces)
        return Suggestion(selection.text + text, selection.start, selection.end + left.fitted.replaces)
