"""No speculation: every tree is its root."""

from __future__ import annotations

from collections.abc import Sequence

from engine.draft.base import BeforeLayer, DraftMemory, Opening
from engine.policy.base import Position, SpareMs
from engine.tree import TokenTree


class PlainSession:
    """One token a pass."""

    failed: Sequence[str] = ()

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:  # noqa: ARG002
        return TokenTree.root(position.history[-1])

    def grow_on(self, spare_ms: SpareMs, before_layer: BeforeLayer) -> None:
        """Nothing to grow."""

    def learn(self, emitted: Sequence[int]) -> None:
        """Nothing to learn from."""


class PlainPolicy:
    """Plain decoding, as a policy."""

    most_nodes = 1

    def new_memories(self) -> tuple[DraftMemory, ...]:
        return ()

    def open(
        self,
        memories: Sequence[DraftMemory],  # noqa: ARG002
        opening: Opening,  # noqa: ARG002
        *,
        greedy: bool,  # noqa: ARG002
    ) -> PlainSession:
        return PlainSession()
