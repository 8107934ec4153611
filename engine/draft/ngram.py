"""Drafts from what already stands in the prompt, for code repeats itself.

Prompt lookup decoding, Saxena 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.draft.base import TreeLimits
from engine.kv_cache import KVCache
from engine.tree import TokenTree

LONGEST, SHORTEST = 4, 2
MATCHES = 3
"""Earlier places followed per request of `grow`, the latest first."""
CONFIDENCE = {4: 0.85, 3: 0.75, 2: 0.55}
"""Prior probability that the token after a match of so many tokens comes again."""


class NgramSession:
    """An index of the history's n-grams, extended as the history grows."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._indexed = 0

    def grow(
        self,
        tree: TokenTree,
        history: Sequence[int],
        limits: TreeLimits,
        before_layer: Callable[[int], None],  # noqa: ARG002 - runs no layer
    ) -> None:
        """Follow the latest earlier occurrences of the last tokens, longest match first."""
        self._index(history)
        used: set[int] = set()
        for size in range(LONGEST, SHORTEST - 1, -1):
            for end in self._matches(history, size):
                if end not in used and len(used) < MATCHES:
                    used.add(end)
                    self._follow(tree, history, end, CONFIDENCE[size], limits)

    def _index(self, history: Sequence[int]) -> None:
        for end in range(self._indexed, len(history)):
            for size in range(SHORTEST, LONGEST + 1):
                if end + 1 >= size:
                    self._ends.setdefault(tuple(history[end + 1 - size : end + 1]), []).append(end + 1)
        self._indexed = len(history)

    def _matches(self, history: Sequence[int], size: int) -> list[int]:
        """Offsets just past earlier occurrences of the last `size` tokens, the latest first."""
        ends = self._ends.get(tuple(history[-size:]), [])
        return [end for end in reversed(ends) if end < len(history)][:MATCHES]

    @staticmethod
    def _follow(
        tree: TokenTree, history: Sequence[int], start: int, confidence: float, limits: TreeLimits
    ) -> None:
        node = 0
        if start < len(history) and not limits.allows(history[start]):
            return
        for token in history[start : start + limits.depth]:
            node = tree.add(node, token, confidence)


class NgramDrafter:
    """Follows earlier occurrences of the last few tokens. Costs no pass."""

    name = "ngram"

    def new_cache(self) -> KVCache | None:
        return None

    def open(self, cache: KVCache | None) -> NgramSession:  # noqa: ARG002 - has no cache
        return NgramSession()
