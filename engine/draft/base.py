"""What a drafter is. A wrong guess costs time, never correctness: the target decides every token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.kv_cache import KVCache
from engine.tree import TokenTree


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Bounds on what drafters may add to a tree; UMbreLLa's names where it has one.

    `size` is the number of guesses the target verifies in one pass, `width` the most probable
    children considered per node, `num_beams` the nodes a drafter expands per level.
    """

    size: int
    depth: int
    width: int
    num_beams: int
    allowed: Sequence[int] | None = None
    """The ids, ascending, that may follow the root; None if any may."""

    def allows(self, token: int) -> bool:
        """Whether `token` may follow the root."""
        if self.allowed is None:
            return True
        at = bisect_left(self.allowed, token)
        return at < len(self.allowed) and self.allowed[at] == token


class DraftSession(Protocol):
    """One generation's drafting."""

    def grow(
        self,
        tree: TokenTree,
        history: Sequence[int],
        limits: TreeLimits,
        before_layer: Callable[[int], None],
    ) -> None:
        """Add guesses to `tree`, whose root is ``history[-1]``.

        `history` is everything so far and only ever grows between calls. `before_layer` is called
        before every layer that is run; what it raises passes through.
        """
        ...


class Drafter(Protocol):
    """A source of guesses."""

    @property
    def name(self) -> str: ...

    def new_cache(self) -> KVCache | None:
        """The cache a slot keeps for this drafter between requests; None if it needs none."""
        ...

    def open(self, cache: KVCache | None) -> DraftSession:
        """Begin a generation with the slot's `cache`."""
        ...
