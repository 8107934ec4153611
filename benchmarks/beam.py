"""UMbreLLa's fixed beam as a tree policy, to be compared with.

What it does was read off UMbreLLa's dynamic engine (Infini-AI-Lab, Apache-2.0): a level is the `width` best
children of the level above by summed log(p + 1e-4), `num_beams` being considered for each node, and
whatever comes of it is verified. Knows nothing of what passes take or of what guesses are worth.
"""

# pyright: reportUnknownMemberType=false
# Some of torch's methods are annotated in part only.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from engine.draft.base import BeforeLayer, DraftMemory, Opening
from engine.draft.model import ModelDrafter, ModelMemory, TreeReader
from engine.policy.base import Position, SpareMs
from engine.tree import TokenTree

EPSILON = 1e-4
"""Added to every probability, so that an unlikely step costs a path no more than so much."""


@dataclass(frozen=True, slots=True)
class BeamShape:
    """How many nodes a level has, children are considered a node, and levels there are."""

    width: int
    num_beams: int
    depth: int

    @property
    def size(self) -> int:
        """Nodes in all, the root aside."""
        return self.width * self.depth


class BeamSession:
    """One generation."""

    failed: Sequence[str] = ()

    def __init__(self, reader: TreeReader, shape: BeamShape) -> None:
        self._reader = reader
        self._shape = shape

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:
        """The beam's tree; no deeper than there are tokens left, beside what is known of the text."""
        tree = TokenTree.root(position.history[-1])
        self._reader.begin(position.history)
        level = [0]
        for _ in range(min(self._shape.depth, position.left - 1)):
            level = self._widen(tree, level, self._reader.read(tree, level, before_layer))
        return tree

    def _widen(self, tree: TokenTree, level: Sequence[int], logits: Tensor) -> list[int]:
        """Add the next level below `level`, of whose nodes `logits` [len(level), vocab] are."""
        found = logits.softmax(-1).topk(min(self._shape.num_beams, logits.shape[-1]), dim=-1)
        chances = (found.values + EPSILON).clamp(max=1.0)
        before = chances.new_tensor([math.log(tree.scores[node]) for node in level])
        scores = before.unsqueeze(1) + chances.log()
        best = scores.flatten().topk(min(self._shape.width, scores.numel())).indices
        rows = torch.div(best, scores.shape[1], rounding_mode="floor")
        return [
            tree.add(level[row], token, chance)
            for row, token, chance in zip(
                cast("list[int]", rows.tolist()),
                cast("list[int]", found.indices.flatten()[best].tolist()),
                cast("list[float]", chances.flatten()[best].tolist()),
                strict=True,
            )
        ]

    def grow_on(self, spare_ms: SpareMs, before_layer: BeforeLayer) -> None:
        """Nothing: the shape stays."""

    def learn(self, emitted: Sequence[int]) -> None:
        """Nothing, as above."""


class BeamPolicy:
    """The same shape at every step, grown by one draft model."""

    def __init__(self, drafter: ModelDrafter, shape: BeamShape) -> None:
        self._drafter = drafter
        self._shape = shape

    @property
    def most_nodes(self) -> int:
        return 1 + self._shape.size

    def new_memories(self) -> tuple[DraftMemory, ...]:
        return (self._drafter.new_memory(),)

    def open(
        self,
        memories: Sequence[DraftMemory],
        opening: Opening,  # noqa: ARG002 - a draft model needs the history alone
        *,
        greedy: bool,  # noqa: ARG002 - the shape is the same
    ) -> BeamSession:
        (memory,) = memories
        return BeamSession(cast(ModelMemory, memory).reader(), self._shape)
