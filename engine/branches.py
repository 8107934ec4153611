"""Verified paths beside the one that was taken: alternatives that cost no pass. Knows tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from engine.protocol import StopReason
from engine.sampling import Choice, SamplingParams, processed
from engine.tree import TokenTree

UNLIKELY = 50.0
"""Logits under the best: a token that is, after bias and penalty, was ruled out."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A verified path: the nodes descended into, and the tokens emitted on the way."""

    nodes: tuple[int, ...]
    emitted: tuple[Choice, ...]
    stop: StopReason | None


@dataclass(frozen=True, slots=True)
class Branch:
    """A path that leaves the text after `at` of a generation's tokens, and goes on greedily."""

    at: int
    tokens: tuple[int, ...]
    """[at least 1]; the last is the target's choice where the tree ended."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each under the target."""

    @property
    def score(self) -> float:
        """Log-probability of the branch, given the text up to where it leaves."""
        return sum(self.logprobs)


def siblings(
    tree: TokenTree,
    logits: Tensor,
    walk: Walk,
    history: Sequence[int],
    params: SamplingParams,
    emitted: int,
    most: int,
) -> tuple[Branch, ...]:
    """At most `most` branches off `walk`, the most probable first.

    `logits` [nodes, vocab] of the tree's nodes; `history` is what ends with the root, and `emitted` of its
    tokens came in this generation. The bias and penalty of `params` hold for branches too.
    """
    verified = _Verified(tree, logits, logits.log_softmax(-1), history, params)
    found = [
        verified.branch(node, child, emitted + depth)
        for depth, (node, choice) in enumerate(zip(walk.nodes, walk.emitted, strict=False))
        for child in verified.possible(node)
        if tree.tokens[child] != choice.token
    ]
    return tuple(sorted(found, key=lambda branch: -branch.score)[:most])


@dataclass(frozen=True, slots=True)
class _Verified:
    """A tree, and what the target thinks of its nodes."""

    tree: TokenTree
    logits: Tensor
    logprobs: Tensor
    history: Sequence[int]
    params: SamplingParams

    def possible(self, node: int) -> list[int]:
        """The children of `node` that are not ruled out."""
        row = self._processed(node)
        least = float(row.max()) - UNLIKELY
        return [child for token, child in self.tree.children(node).items() if float(row[token]) > least]

    def branch(self, parent: int, child: int, at: int) -> Branch:
        """The one that leaves at `parent` for `child`, as far as was verified."""
        first = self.tree.tokens[child]
        tokens, chances = [first], [float(self.logprobs[parent, first])]
        here: int | None = child
        while here is not None:
            best = cast(int, self._processed(here).argmax().item())
            tokens.append(best)
            chances.append(float(self.logprobs[here, best]))
            here = self.tree.child(here, best)
        return Branch(at, tuple(tokens), tuple(chances))

    def _processed(self, node: int) -> Tensor:
        return processed(self.logits[node], self.params, [*self.history, *self.tree.path(node)])
