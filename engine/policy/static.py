"""Trees of one fixed shape, filled in by rank: Sequoia's (Chen et al. 2024) grow maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from engine.draft.base import BeforeLayer, DraftMemory, Opening
from engine.draft.model import ModelDrafter, ModelMemory, TreeReader, possible
from engine.policy.base import Attempt, Position, SpareMs
from engine.policy.growmap import GrowMap
from engine.tree import TokenTree


class StaticSession:
    """One generation."""

    def __init__(self, reader: TreeReader, grow_map: GrowMap, name: str) -> None:
        self._reader = reader
        self._map = grow_map
        self._levels = grow_map.levels()
        self._name = name
        self.failed: Sequence[str] = ()

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:
        """The map's tree, less what the text has no room for or what cannot follow."""
        tree = TokenTree.root(position.history[-1])
        attempt = Attempt(before_layer)
        if not self.failed and not attempt.succeeds(lambda: self._fill(tree, position, attempt.before_layer)):
            self.failed = (self._name,)
        return tree

    def _fill(self, tree: TokenTree, position: Position, before_layer: BeforeLayer) -> None:
        self._reader.begin(position.history)
        place = {0: 0}
        """Nodes of the tree by those of the map."""
        for depth, level in enumerate(self._levels):
            wanted = [
                node
                for node in level
                if self._map.successors[node]
                and node in place
                and not self._over(tree, place[node], position)
            ]
            if not wanted or depth >= position.left - 1:
                return
            at = [place[node] for node in wanted]
            logits = self._reader.read(tree, at, before_layer)
            logits = possible(position.outlook, tree, at, logits)
            for row, node in enumerate(wanted):
                successors = self._map.successors[node]
                for child, token in zip(successors, _ranked(logits[row], len(successors)), strict=False):
                    # The shape is given, so nothing depends on the guesses' chances.
                    place[child] = tree.add(at[row], token, 1.0)

    @staticmethod
    def _over(tree: TokenTree, node: int, position: Position) -> bool:
        return node > 0 and position.outlook.closes(tree, node)

    def grow_on(self, spare_ms: SpareMs, before_layer: BeforeLayer) -> None:
        """Nothing: the shape stays."""

    def learn(self, emitted: Sequence[int]) -> None:
        """Nothing, as above."""


def _ranked(logits: Tensor, count: int) -> list[int]:
    """The `count` likeliest ids of [vocab] logits, the likeliest first; fewer where fewer are possible."""
    best = logits.topk(min(count, len(logits)))
    tokens, values = cast("list[int]", best.indices.tolist()), cast("list[float]", best.values.tolist())
    return [token for token, value in zip(tokens, values, strict=True) if value > float("-inf")]


class StaticPolicy:
    """The same tree at every step, grown by one draft model."""

    def __init__(self, drafter: ModelDrafter, grow_map: GrowMap) -> None:
        self._drafter = drafter
        self._map = grow_map

    @property
    def most_nodes(self) -> int:
        return len(self._map)

    def new_memories(self) -> tuple[DraftMemory, ...]:
        return (self._drafter.new_memory(),)

    def open(
        self,
        memories: Sequence[DraftMemory],
        opening: Opening,  # noqa: ARG002 - a draft model needs the history alone
        *,
        greedy: bool,  # noqa: ARG002 - the shape is the same
    ) -> StaticSession:
        (memory,) = memories
        return StaticSession(cast(ModelMemory, memory).reader(), self._map, self._drafter.name)
