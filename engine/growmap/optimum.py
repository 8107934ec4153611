"""The shapes of trees that yield most, by how often each of a draft's choices is the target's. Pure.

Sequoia's dynamic programme (Chen et al. 2024, section 3.1). Its assumption: whether the target draws the
draft's k-th choice depends on k alone, not on where in the text or the tree that is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.policy.growmap import GrowMap

_Values = NDArray[np.float64]


class BestTrees:
    """For each size and depth the tree that yields most tokens a pass, and how many those are."""

    def __init__(self, acceptance: Sequence[float], most_nodes: int, most_levels: int) -> None:
        """`acceptance` by rank: the probability [above 0] that the target draws that choice of the draft's.

        Trees have up to `most_nodes` [>= 1], the root included, and `most_levels` [>= 0] below it. A child
        ranked k stands only beside those ranked before it: a shape cannot leave out a rank.
        """
        if not all(0.0 < chance <= 1.0 for chance in acceptance):
            raise ValueError("acceptance must be within (0, 1] for every rank")
        self._acceptance = tuple(acceptance)
        sizes, ranks = most_nodes + 1, len(self._acceptance)
        impossible = np.full(sizes, -np.inf)
        bare = impossible.copy()
        bare[1] = 1.0
        self._trees: list[_Values] = [bare]
        """By levels, then by nodes: tokens of the best tree of exactly so many, at most so deep."""
        self._forests: list[list[_Values]] = [[impossible] * (ranks + 1)]
        """By levels, then by rank, then by nodes: of the best trees below the children from that rank on."""
        nothing = impossible.copy()
        nothing[0] = 0.0
        for _ in range(most_levels):
            below, forests = self._trees[-1], [nothing]
            for chance in reversed(self._acceptance):
                forests.append(np.maximum(nothing, _joined(chance * below, forests[-1])))
            forests.reverse()
            self._forests.append(forests)
            self._trees.append(np.concatenate([[-np.inf], 1.0 + forests[0][:-1]]))

    def tokens(self, nodes: int, levels: int) -> float:
        """What the best tree of exactly `nodes` yields a pass; -inf if there is none so large."""
        return float(self._trees[levels][nodes])

    def shape(self, nodes: int, levels: int) -> GrowMap:
        """That tree, numbered level by level. There must be one."""
        successors: list[tuple[int, ...]] = []
        waiting = [(nodes, levels)]
        for size, depth in waiting:  # It grows on the way.
            children = [(part, depth - 1) for part in self._parts(size - 1, depth)]
            successors.append(tuple(range(len(waiting), len(waiting) + len(children))))
            waiting += children
        return GrowMap(tuple(successors))

    def _parts(self, nodes: int, levels: int) -> list[int]:
        """How `nodes` [>= 0] are shared out among the trees of a node's children, by rank."""
        parts: list[int] = []
        while nodes > 0:
            rank = len(parts)
            first = self._acceptance[rank] * self._trees[levels - 1][1 : nodes + 1]
            rest = self._forests[levels][rank + 1][:nodes][::-1]
            parts.append(1 + int(np.argmax(first + rest)))
            nodes -= parts[-1]
        return parts


def _joined(first: _Values, rest: _Values) -> _Values:
    """By nodes: the best of a tree with `first`'s values, at least one node, and others with `rest`'s."""
    best = np.full(len(first), -np.inf)
    for size in np.flatnonzero(first > -np.inf):
        best[size:] = np.maximum(best[size:], first[size] + rest[: len(rest) - size])
    return best
