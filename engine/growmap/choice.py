"""What static trees of every size would give on this machine, and which of them is the best. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.costs import ROWS, CostTable
from engine.draft.base import TreeLimits
from engine.growmap.optimum import BestTrees
from engine.policy.growmap import GrowMap


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest tree of one size. A tree of one node is plain decoding."""

    shape: GrowMap
    tokens: float
    """Expected of a pass."""
    pass_ms: float
    """Of a pass and the drafting before it."""

    @property
    def levels(self) -> int:
        """Below the root."""
        return len(self.shape.levels()) - 1

    @property
    def tokens_per_s(self) -> float:
        return 1000 * self.tokens / self.pass_ms


def choices(
    acceptance: Sequence[float], limits: TreeLimits, target: CostTable, draft: CostTable
) -> list[Choice]:
    """By size, the smallest first: of each that passes are timed of, the depth that gives most a second."""
    most = 1 + limits.size
    best = BestTrees(acceptance, most, limits.depth)
    sizes = sorted({*(rows for rows in ROWS if rows <= most), most})
    found: list[Choice] = []
    for nodes in sizes:
        depths = range(min(nodes - 1, limits.depth) + 1)
        shapes = [best.shape(nodes, depth) for depth in depths if best.tokens(nodes, depth) > 0.0]
        if not shapes:
            break  # So many find no room in so few levels.
        tried = (Choice(each, tokens_of(each, acceptance), cost_ms(each, target, draft)) for each in shapes)
        found.append(max(tried, key=lambda choice: choice.tokens_per_s))
    return found


def tokens_of(shape: GrowMap, acceptance: Sequence[float]) -> float:
    """What a tree of that `shape` yields a pass: the sum of the probabilities that its nodes are got to."""
    reached = [1.0] * len(shape)
    for node, children in enumerate(shape.successors):
        for chance, child in zip(acceptance, children, strict=False):
            reached[child] = reached[node] * chance
    return sum(reached)


def cost_ms(shape: GrowMap, target: CostTable, draft: CostTable) -> float:
    """Of a pass over a tree of that `shape`, and of the draft's passes that fill it, one a level."""
    parents = (sum(bool(shape.successors[node]) for node in level) for level in shape.levels())
    return target.ms(len(shape)) + sum(draft.ms(count) for count in parents if count)
