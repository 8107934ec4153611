"""Drafts with a small model: a beam over its own probabilities, level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import nlargest
from typing import cast

import torch

from engine.draft.base import TreeLimits
from engine.kv_cache import KVCache
from engine.model import Block, Transformer
from engine.prefill import prefill
from engine.sampling import only
from engine.tree import TokenTree

MIN_SCORE = 0.02
"""A path less probable than this is not worth a step of the draft."""


class ModelSession:
    """Keeps the draft's cache one with the history; the tree's own nodes are never kept.

    Accepted nodes are run again as the next request's new tokens: they ride along in a pass that
    is needed for the root anyway.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self._model = model
        self._cache = cache

    def grow(
        self,
        tree: TokenTree,
        history: Sequence[int],
        limits: TreeLimits,
        before_layer: Callable[[int], None],
    ) -> None:
        if limits.depth < 1:
            return
        probabilities = self._read(history, limits.allowed, before_layer)
        frontier = [0]
        drafted: list[int] = []
        rows: dict[int, int] = {}
        for level in range(limits.depth):
            frontier = self._branch(tree, frontier, probabilities, limits)
            # A node another drafter had put there is run like our own.
            drafted += [node for node in frontier if node not in rows]
            rows |= {node: i for i, node in enumerate(drafted)}
            if not frontier or level + 1 == limits.depth:
                break
            probabilities = self._run_tree(tree, drafted, rows, frontier, before_layer)

    def _read(
        self,
        history: Sequence[int],
        allowed: Sequence[int] | None,
        before_layer: Callable[[int], None],
    ) -> torch.Tensor:
        """Bring the cache up to `history`; probabilities of what may follow it [1, vocab]."""
        self._cache.truncate(min(self._cache.common_prefix(history), len(history) - 1))
        prefill(self._model, self._cache, history, before_layer)
        pending = list(history[self._cache.length :])
        logits = self._model.forward(Block.chain(pending), self._cache, [len(pending) - 1], before_layer)
        self._cache.keep(range(len(pending)), pending)
        return (logits if allowed is None else only(logits[0], allowed)[None]).softmax(-1)

    def _run_tree(
        self,
        tree: TokenTree,
        drafted: Sequence[int],
        rows: dict[int, int],
        frontier: Sequence[int],
        before_layer: Callable[[int], None],
    ) -> torch.Tensor:
        """Probabilities after each node of `frontier` [len(frontier), vocab]."""
        parents = [rows.get(tree.parents[node], -1) for node in drafted]
        block = Block([tree.tokens[node] for node in drafted], parents)
        wanted = [rows[node] for node in frontier]
        return self._model.forward(block, self._cache, wanted, before_layer).softmax(-1)

    @staticmethod
    def _branch(
        tree: TokenTree, frontier: Sequence[int], probabilities: torch.Tensor, limits: TreeLimits
    ) -> list[int]:
        """Add the best children of the frontier's nodes; the new frontier, best first."""
        top = probabilities.topk(min(limits.width, probabilities.shape[-1]), dim=-1)
        values = cast("list[list[float]]", top.values.tolist())
        tokens = cast("list[list[int]]", top.indices.tolist())
        candidates = [
            (tree.scores[node] * p, node, token, p)
            for node, row_values, row_tokens in zip(frontier, values, tokens, strict=True)
            for p, token in zip(row_values, row_tokens, strict=True)
            if tree.scores[node] * p >= MIN_SCORE
        ]
        best = nlargest(limits.num_beams, candidates, key=lambda candidate: candidate[0])
        return [tree.add(node, token, min(1.0, p)) for _, node, token, p in best]


class ModelDrafter:
    """A Transformer with the target's vocabulary."""

    name = "model"

    def __init__(self, model: Transformer, max_length: int, limits: TreeLimits) -> None:
        self._model = model
        # Room past the context for every node one tree can have this drafter run.
        self._capacity = max_length + limits.num_beams * limits.depth

    def new_cache(self) -> KVCache:
        return self._model.new_cache(self._capacity)

    def open(self, cache: KVCache | None) -> ModelSession:
        if cache is None:
            raise ValueError("a model drafter needs the cache that its new_cache made")
        return ModelSession(self._model, cache)
