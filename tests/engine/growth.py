"""A step's tree that takes every guess, for tests of single drafters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.draft.base import Outlook, TreeLimits
from engine.draft.calibration import Calibration
from engine.tree import TokenTree


@dataclass
class OpenGrowth:
    """What a drafter adds to, bounded only by `limits.depth` and the outlook."""

    history: Sequence[int]
    priors: Sequence[Sequence[float]]
    limits: TreeLimits = field(default_factory=lambda: TreeLimits(size=64, depth=8, width=4, num_beams=3))
    outlook: Outlook = field(default_factory=Outlook)

    def __post_init__(self) -> None:
        self.chances = Calibration(self.priors).chances
        self.tree = TokenTree.root(self.history[-1])
        self.evidence = [0]
        """By node."""

    def uncovered(self, node: int) -> float:
        tree = self.tree
        return tree.scores[node] * (1 - sum(tree.chances[child] for child in tree.children(node).values()))

    def is_open(self, node: int) -> bool:
        return not self.outlook.closes(self.tree, node)

    def add(self, parent: int, token: int, evidence: int) -> int | None:
        if self.tree.depths[parent] >= self.limits.depth or not self.is_open(parent):
            return None
        node = self.tree.add(parent, token, self.chances[evidence])
        self.evidence += [evidence] * (len(self.tree) - len(self.evidence))
        return node

    def paths(self) -> list[list[int]]:
        """From the root to every leaf, in the order of their tokens."""
        tree = self.tree
        return sorted(tree.path(node) for node in range(1, len(tree)) if not tree.children(node))
