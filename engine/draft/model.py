"""Drafts with a small model of the target's vocabulary, best guesses first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import nlargest
from typing import cast

import torch
from torch import Tensor

from engine.costs import CostTable
from engine.draft.base import BeforeLayer, DraftMemory, Growth, Opening, Outlook
from engine.kv_cache import KVCache
from engine.model import Block, Transformer
from engine.prefill import prefill
from engine.sampling import only
from engine.tree import TokenTree

STEPS_A_READING_SERVES = 16
"""A prompt that is read once stays in the cache: its cost is spread over so many steps."""
_STEEPNESS, _HALF = 2, 12


def evidence_of(probability: float) -> int:
    """Log-odds of the draft's own probability in steps of a half: 0 below 1:400, 24 above 400:1."""
    if probability >= 1.0:
        return 2 * _HALF
    odds = math.log(max(probability, 1e-9) / (1.0 - probability))
    return min(max(round(_STEEPNESS * odds) + _HALF, 0), 2 * _HALF)


PRIORS = (
    tuple(
        0.97 / (1.0 + math.exp(-0.6 - 1.1 * (evidence - _HALF) / _STEEPNESS))
        for evidence in range(2 * _HALF + 1)
    ),
)
"""By evidence. What the target likes best is drawn more often than a draft, in two minds, thinks."""


def possible(outlook: Outlook, tree: TokenTree, nodes: Sequence[int], logits: Tensor) -> Tensor:
    """`logits` [len(nodes), vocab] with what may not follow each of `nodes` ruled out."""
    allowed = [outlook.allowed(tree.path(node)) for node in nodes]
    if all(ids is None for ids in allowed):
        return logits
    rows = (row if ids is None else only(row, ids) for row, ids in zip(logits, allowed, strict=True))
    return torch.stack([*rows])


class TreeReader:
    """Runs a draft model along a text and beside the tree that grows at its end.

    The tree's nodes lie behind the cached text as scratch, each run once; accepted ones are run again as
    the next step's new text, which rides along in a pass that is needed for the root anyway.
    """

    def __init__(self, model: Transformer, cache: KVCache, vocab_size: int) -> None:
        """`vocab_size`: ids that the target knows; embeddings are padded differently within a family."""
        self._model = model
        self._cache = cache
        self._vocab_size = vocab_size
        self._follows = False
        """Whether what is cached begins the history."""
        self._run: list[int] = []
        self._rows: dict[int, int] = {}

    def pending(self, history: Sequence[int]) -> int:
        """Tokens of `history` that `read` has to run. From one call to the next, `history` has only grown."""
        if not self._follows:
            self._cache.truncate(self._cache.common_prefix(history))
            self._follows = True
        return max(1, len(history) - self._cache.length)

    def read(self, history: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        """Bring the cache up to `history`: logits of what follows it [1, vocab]. The tree is bare again."""
        self._run, self._rows = [], {}
        self._cache.truncate(len(history) - self.pending(history))
        if max(history[self._cache.length :]) >= self._model.config.vocab_size:
            # Said here, for on a GPU a look-up beyond the embedding takes the whole process along.
            raise ValueError("the draft model does not know a token of the text")
        prefill(self._model, self._cache, history, before_layer)
        left = list(history[self._cache.length :])
        logits = self._model.forward(Block.chain(left), self._cache, [len(left) - 1], before_layer)
        self._cache.keep(range(len(left)), left)
        return logits[:, : self._vocab_size]

    def run(self, tree: TokenTree, nodes: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        """Logits of what follows each of `nodes` [len(nodes), vocab].

        Each was not run before, and its parent is the root, was run, or comes before it in `nodes`.
        """
        first = len(self._run)
        run = [*self._run, *nodes]
        rows = self._rows | {node: first + at for at, node in enumerate(nodes)}
        parents = [rows.get(tree.parents[node], -1) for node in run]
        block = Block([tree.tokens[node] for node in run], parents, first)
        logits = self._model.forward(block, self._cache, range(first, len(run)), before_layer)
        self._run, self._rows = run, rows
        return logits[:, : self._vocab_size]


class ModelSession:
    """Expands the tree's most probable nodes, whoever put them there, a level of `width` at a time."""

    def __init__(self, reader: TreeReader, costs: CostTable) -> None:
        self._reader = reader
        self._costs = costs
        self._expanded: set[int] = set()

    def begin(self, history: Sequence[int]) -> None:  # noqa: ARG002 - read only if asked to draft
        self._expanded = set()

    def uncovered(self, growth: Growth) -> float:
        return sum(growth.uncovered(node) for node in self._frontier(growth))

    def cost_ms(self, growth: Growth) -> float:
        if self._expanded:
            return self._costs.ms(len(self._frontier(growth)))
        one, all_pending = self._costs.ms(1), self._costs.ms(self._reader.pending(growth.history))
        return one + (all_pending - one) / STEPS_A_READING_SERVES

    def _frontier(self, growth: Growth) -> list[int]:
        """The nodes to expand next, parents first."""
        if not self._expanded:
            return [0]
        tree, depth = growth.tree, growth.limits.depth
        unexpanded = [
            node
            for node in range(1, len(tree))
            if node not in self._expanded and tree.depths[node] < depth and growth.is_open(node)
        ]
        return nlargest(growth.limits.width, unexpanded, key=lambda node: tree.scores[node])

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        frontier = self._frontier(growth)
        if self._expanded:
            logits = self._reader.run(growth.tree, frontier, before_layer)
        else:
            logits = self._reader.read(growth.history, before_layer)
        self._expanded.update(frontier)
        logits = possible(growth.outlook, growth.tree, frontier, logits)
        self._branch(growth, frontier, logits.softmax(-1))

    @staticmethod
    def _branch(growth: Growth, frontier: Sequence[int], probabilities: Tensor) -> None:
        """Add the most probable of the frontier's children."""
        limits, scores = growth.limits, growth.tree.scores
        top = probabilities.topk(min(limits.num_beams, probabilities.shape[-1]), dim=-1)
        values = cast("list[list[float]]", top.values.tolist())
        tokens = cast("list[list[int]]", top.indices.tolist())
        candidates = [
            (scores[node] * chance, node, token, chance)
            for node, row_values, row_tokens in zip(frontier, values, tokens, strict=True)
            for chance, token in zip(row_values, row_tokens, strict=True)
            if chance > 0.0
        ]
        for _, node, token, chance in nlargest(limits.width, candidates, key=lambda found: found[0]):
            growth.add(node, token, evidence_of(chance))


class ModelMemory:
    """The keys and values of a slot's text in the draft model."""

    def __init__(self, model: Transformer, costs: CostTable, cache: KVCache, vocab_size: int) -> None:
        self._model = model
        self._costs = costs
        self._vocab_size = vocab_size
        self.cache = cache

    def open(self, opening: Opening) -> ModelSession:  # noqa: ARG002 - the history says it all
        return ModelSession(self.reader(), self._costs)

    def reader(self) -> TreeReader:
        """The model beside this memory's text."""
        return TreeReader(self._model, self.cache, self._vocab_size)

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None:
        if isinstance(other, ModelMemory):
            shared = other.cache.common_prefix(tokens)
            if shared > self.cache.common_prefix(tokens):
                self.cache.adopt(other.cache, shared)


class ModelDrafter:
    """A Transformer with the target's vocabulary.

    `most_nodes` is what one step can have it run, `vocab_size` how many ids the target knows if that differs.
    """

    name = "model"
    priors = PRIORS

    def __init__(
        self,
        model: Transformer,
        max_length: int,
        most_nodes: int,
        costs: CostTable,
        vocab_size: int | None = None,
    ) -> None:
        self._model = model
        self._costs = costs
        self._vocab_size = vocab_size or model.config.vocab_size
        self._capacity = max_length + most_nodes

    def new_memory(self) -> ModelMemory:
        return ModelMemory(self._model, self._costs, self._model.new_cache(self._capacity), self._vocab_size)
