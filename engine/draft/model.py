"""Drafts with a small model of the target's vocabulary, best guesses first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

RIDING = 16
"""Tokens of text at most that go along with a tree's nodes; more are read by themselves first."""
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
    """Runs a draft model along a text and beside the tree that grows at its end, each token once.

    What is run beside the tree lies behind the cached text as scratch. Once the text has grown, the part of
    it that was run there already is kept.
    """

    def __init__(self, model: Transformer, cache: KVCache, vocab_size: int) -> None:
        """`vocab_size`: ids that the target knows; embeddings are padded differently within a family."""
        self._model = model
        self._cache = cache
        self._vocab_size = vocab_size
        self._history: Sequence[int] = ()
        self._follows = False
        """Whether what is cached begins the history."""
        self._tokens: list[int] = []
        self._parents: list[int] = []
        """Of the scratch rows, in order: their tokens, and the rows that they follow, -1 being the cache."""
        self._rows: dict[int, int] = {}
        """By node of the tree: the scratch row that it was run in; -1 is the last cached token."""

    def begin(self, history: Sequence[int]) -> None:
        """The text is `history`, and the tree bare: its root is ``history[-1]``.

        From one call to the next the text has only grown.
        """
        cache = self._cache
        if self._follows:
            cache.keep(*self._confirmed(history))
        else:
            cache.truncate(cache.common_prefix(history))
            self._follows = True
        self._history = history
        self._tokens, self._parents = [], []
        self._rows = {0: -1} if cache.length == len(history) else {}

    def _confirmed(self, history: Sequence[int]) -> tuple[list[int], list[int]]:
        """The scratch rows that the text has come to contain, and their tokens."""
        places = {place: row for row, place in enumerate(zip(self._parents, self._tokens, strict=True))}
        rows, tokens, at = list[int](), list[int](), -1
        for token in history[self._cache.length :] if places else ():
            found = places.get((at, token))
            if found is None:
                break
            rows.append(at := found)
            tokens.append(token)
        return rows, tokens

    def cost(self, tree: TokenTree, nodes: Sequence[int]) -> tuple[int, int]:
        """How many rows `read` would run for `nodes`: of the text before the root, and of the tree."""
        text = 0 if self._tokens else max(0, len(self._history) - 1 - self._cache.length)
        return text, len(self._missing(tree, nodes, self._rows)) or 1

    def read(self, tree: TokenTree, nodes: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        """Logits of what follows each of `nodes` [len(nodes), vocab], and of none of them before.

        The root, if it is wanted, comes first and alone. What else has to be run for them goes along.
        """
        cache = self._cache
        root_alone = list(nodes) == [0]
        if root_alone:
            # Its keys may be there, but its logits are wanted.
            cache.truncate(min(cache.length, len(self._history) - 1))
        text = len(self._history) - cache.length
        if text > 0 and not self._tokens and (root_alone or text > RIDING):
            logits = self._read_text(before_layer)
            if root_alone:
                return logits
        tokens, parents, rows = [*self._tokens], [*self._parents], {**self._rows}
        first = len(tokens)
        if 0 not in rows:
            riding = self._history[cache.length :]
            tokens, parents, rows[0] = [*riding], [*range(-1, len(riding) - 1)], len(riding) - 1
        for node in self._missing(tree, nodes, rows):
            rows[node] = len(tokens)
            tokens.append(tree.tokens[node])
            parents.append(rows[tree.parents[node]])
        self._require_known(tokens[first:])
        wanted = [rows[node] for node in nodes]
        logits = self._model.forward(Block(tokens, parents, first), cache, wanted, before_layer)
        self._tokens, self._parents, self._rows = tokens, parents, rows
        return logits[:, : self._vocab_size]

    def _read_text(self, before_layer: BeforeLayer) -> Tensor:
        """Bring the cache up to the text: logits of what follows it [1, vocab]."""
        history, cache = self._history, self._cache
        self._require_known(history[cache.length :])
        prefill(self._model, cache, history, before_layer)
        left = list(history[cache.length :])
        logits = self._model.forward(Block.chain(left), cache, [len(left) - 1], before_layer)
        cache.keep(range(len(left)), left)
        self._rows = {0: -1}
        return logits[:, : self._vocab_size]

    def _require_known(self, tokens: Sequence[int]) -> None:
        if max(tokens, default=0) >= self._model.config.vocab_size:
            # Said here, for on a GPU a look-up beyond the embedding takes the whole process along.
            raise ValueError("the draft model does not know a token of the text, or of another's guesses")

    @staticmethod
    def _missing(tree: TokenTree, nodes: Sequence[int], rows: Mapping[int, int]) -> list[int]:
        """`nodes` and what leads to them, as far as it was not run, parents first."""
        missing: set[int] = set()
        for node in nodes:
            while node >= 0 and node not in rows and node not in missing:
                missing.add(node)
                node = tree.parents[node]  # noqa: PLW2901 - on the way to the root
        return sorted(missing)


@dataclass(slots=True)
class _Thought:
    """What the draft said after a text, and after the texts that go on from there."""

    guesses: list[tuple[float, int]] | None = None
    """The likeliest tokens with their probabilities; None if it was not asked."""
    after: dict[int, _Thought] = field(default_factory=dict[int, "_Thought"])

    def then(self, token: int) -> _Thought:
        """What it said one token later."""
        return self.after.setdefault(token, _Thought())


class ModelSession:
    """Expands the tree's most probable nodes, whoever put them there, a level of `width` at a time.

    It remembers what the model said of texts that may still come, so that drafting done while the target was
    at work (see `engine.policy.dynamic`) is not done again.
    """

    def __init__(self, reader: TreeReader, costs: CostTable) -> None:
        self._reader = reader
        self._costs = costs
        self._size = 0
        """Tokens of the text when the step began."""
        self._thoughts = [_Thought()]
        """By node of the tree, as far as they were looked up, None being one that was not."""
        self._expanded: set[int] = set()

    def begin(self, history: Sequence[int]) -> None:
        root = self._thoughts[0]
        for token in history[self._size :] if self._size else ():
            root = root.then(token)
        self._size = len(history)
        self._thoughts = [root]
        self._expanded = set()
        self._reader.begin(history)

    def _thought(self, tree: TokenTree, node: int) -> _Thought:
        for at in range(len(self._thoughts), node + 1):
            self._thoughts.append(self._thoughts[tree.parents[at]].then(tree.tokens[at]))
        return self._thoughts[node]

    def uncovered(self, growth: Growth) -> float:
        return sum(growth.uncovered(node) for node in self._frontier(growth))

    def cost_ms(self, growth: Growth) -> float:
        frontier = self._frontier(growth)
        if not frontier or self._thought(growth.tree, frontier[0]).guesses is not None:
            return 0.0
        text, rows = self._reader.cost(growth.tree, frontier)
        alone_ms = self._costs.ms(rows)
        return alone_ms + (self._costs.ms(rows + text) - alone_ms) / STEPS_A_READING_SERVES

    def _frontier(self, growth: Growth) -> list[int]:
        """The nodes to expand next: those of which it is known what follows, or else the best."""
        tree, depth = growth.tree, growth.limits.depth
        if not self._expanded:
            return [0]
        unexpanded = [
            node
            for node in range(1, len(tree))
            if node not in self._expanded and tree.depths[node] < depth and growth.is_open(node)
        ]
        known = [node for node in unexpanded if self._thought(tree, node).guesses is not None]
        return known or nlargest(growth.limits.width, unexpanded, key=lambda node: tree.scores[node])

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        frontier = self._frontier(growth)
        thoughts = [self._thought(growth.tree, node) for node in frontier]
        if any(thought.guesses is None for thought in thoughts):
            logits = self._reader.read(growth.tree, frontier, before_layer)
            logits = possible(growth.outlook, growth.tree, frontier, logits)
            guesses = _likeliest(logits.softmax(-1), growth.limits.num_beams)
            for thought, row in zip(thoughts, guesses, strict=True):
                thought.guesses = row
        self._expanded.update(frontier)
        self._branch(growth, frontier, [thought.guesses or [] for thought in thoughts])

    @staticmethod
    def _branch(
        growth: Growth, frontier: Sequence[int], guesses: Sequence[Sequence[tuple[float, int]]]
    ) -> None:
        """Add the most probable of the frontier's children."""
        limits, scores = growth.limits, growth.tree.scores
        candidates = [
            (scores[node] * chance, node, token, chance)
            for node, row in zip(frontier, guesses, strict=True)
            for chance, token in row
        ]
        for _, node, token, chance in nlargest(limits.width, candidates, key=lambda found: found[0]):
            growth.add(node, token, evidence_of(chance))


def _likeliest(probabilities: Tensor, count: int) -> list[list[tuple[float, int]]]:
    """The `count` most probable ids of each row [rows, vocab], less impossible ones, with their chances."""
    top = probabilities.topk(min(count, probabilities.shape[-1]), dim=-1)
    values = cast("list[list[float]]", top.values.tolist())
    tokens = cast("list[list[int]]", top.indices.tolist())
    return [
        [(chance, token) for chance, token in zip(*row, strict=True) if chance > 0.0]
        for row in zip(values, tokens, strict=True)
    ]


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

    `most_nodes` is what one step can have it run, `vocab_size` how many ids the target knows if that differs,
    `name` what it is called in metrics and messages.
    """

    priors = PRIORS

    def __init__(
        self,
        model: Transformer,
        max_length: int,
        most_nodes: int,
        costs: CostTable,
        vocab_size: int | None = None,
        name: str = "model",
    ) -> None:
        self.name = name
        self._model = model
        self._costs = costs
        self._vocab_size = vocab_size or model.config.vocab_size
        self._capacity = max_length + most_nodes

    def new_memory(self) -> ModelMemory:
        return ModelMemory(self._model, self._costs, self._model.new_cache(self._capacity), self._vocab_size)
