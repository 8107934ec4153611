"""Where the end of a text has stood before, and what followed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 16
"""Tokens of agreement that are counted."""
CONTINUATION = 64
"""Tokens that are handed out of what followed."""
CANDIDATES = 24
"""Latest places that are looked at."""


@dataclass(frozen=True, slots=True)
class Match:
    """A place whose last tokens are also the last tokens of the text at hand."""

    length: int
    """How many, `LONGEST` at most."""
    continuation: Sequence[int]
    """What followed there, [at most CONTINUATION]."""


class SuffixIndex:
    """Tokens, and every place in them by the `key` tokens before it.

    Extending costs a constant time a token. Entries of tokens that were taken back stay behind, and are told
    by comparing, until they outnumber the others.
    """

    def __init__(self, key: int) -> None:
        self._key = key
        self.tokens: list[int] = []
        """What is indexed. Read only: `update` changes it."""
        self._places: dict[tuple[int, ...], list[int]] = {}
        self._stale = 0

    def update(self, tokens: Sequence[int]) -> None:
        """Make this the index of `tokens`, whatever it was."""
        if self.tokens != list(tokens[: len(self.tokens)]):
            self._take_back(tokens)
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Make this the index of `tokens`, which begin with what is indexed, at the cost of the new ones."""
        known, key = len(self.tokens), self._key
        self.tokens += tokens[known:]
        for end in range(max(known + 1, key), len(self.tokens) + 1):
            self._places.setdefault(tuple(self.tokens[end - key : end]), []).append(end)

    def _take_back(self, tokens: Sequence[int]) -> None:
        pairs = zip(self.tokens, tokens, strict=False)
        shared = next((at for at, (old, new) in enumerate(pairs) if old != new), len(tokens))
        self._stale += len(self.tokens) - shared
        del self.tokens[shared:]
        if self._stale > len(self.tokens):
            self.tokens, self._places, self._stale = [], {}, 0

    def matches(self, text: Sequence[int], limit: int) -> list[Match]:
        """At most `limit` places that agree with the end of `text`, the longest, then the latest, first.

        Its own end is none, for nothing follows it.
        """
        tokens = self.tokens
        last = tuple(text[-self._key :])
        found: dict[int, int] = {}
        for place in self._places.get(last, [])[: -CANDIDATES - 1 : -1]:
            if place < len(tokens) and place not in found:
                length = self._agreement(text, place)
                if length >= self._key:
                    found[place] = length
        best = sorted(found, key=lambda place: (-found[place], -place))[:limit]
        return [Match(found[place], tokens[place : place + CONTINUATION]) for place in best]

    def _agreement(self, text: Sequence[int], place: int) -> int:
        tokens = self.tokens
        most = min(LONGEST, place, len(text))
        for length in range(most):
            if tokens[place - 1 - length] != text[-1 - length]:
                return length
        return most
