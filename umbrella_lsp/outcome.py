"""What became of one request, as values. Knows no LSP types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.protocol import SegmentFate, Timings, TokenCounts
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.document import Document
from umbrella_lsp.generation import Stop
from umbrella_lsp.memory import Tier

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
    "secret",
    "too large",
]
"""unsure: there is a text, but the target itself does not think it likely.
not now: the target takes so long that it is not worth asking here.
outdated: the document has changed so that nothing made for it fits.
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
