"""Paths beside the one that was taken: alternatives, which cost no pass as far as they were verified.

Knows tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from engine.draft.model import possible
from engine.policy.base import Position
from engine.protocol import StopReason, Tops
from engine.sampling import Choice, SamplingParams, most_probable, processed
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
    """[at least 1]; one that leaves the tree is the last."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each under the target."""
    tops: Tops = ()
    """What else the target would have said in the place of each, where that was asked for."""

    @property
    def score(self) -> float:
        """Log-probability of leaving the text so: what follows is the target's first choice anyway."""
        return self.logprobs[0]


def siblings(
    tree: TokenTree,
    logits: Tensor,
    walk: Walk,
    position: Position,
    params: SamplingParams,
    said: int,
    most: int,
) -> tuple[Branch, ...]:
    """At most `most` branches off `walk`, the most probable first.

    They begin with what else the target would have said at the nodes walked, in the tree or not. `logits`
    [nodes, vocab] are of the tree's nodes, whose root is at `position`, after `said` tokens of this
    generation. Bias, penalty and what is allowed hold for branches too.
    """
    verified = _Verified(tree, logits, position, params)
    found: list[tuple[float, int, int, int]] = []
    for depth, (node, choice) in enumerate(zip(walk.nodes, walk.emitted, strict=False)):
        logprobs = verified.logprobs(node)
        others = [token for token in verified.likeliest(node, most + 1) if token != choice.token]
        found += [(float(logprobs[token]), depth, node, token) for token in others]
    best = sorted(found, key=lambda leaving: -leaving[0])[:most]
    return tuple(verified.branch(node, token, said + depth) for _, depth, node, token in best)


@dataclass(frozen=True, slots=True)
class _Verified:
    """A tree, and what the target thinks of its nodes."""

    tree: TokenTree
    logits: Tensor
    position: Position
    params: SamplingParams

    def likeliest(self, node: int, most: int) -> list[int]:
        """The tokens that the target would most like to say after `node`, but for those ruled out."""
        row = self._processed(node)
        best = row.topk(min(most, len(row)))
        values, tokens = cast("list[float]", best.values.tolist()), cast("list[int]", best.indices.tolist())
        return [token for token, value in zip(tokens, values, strict=True) if value > values[0] - UNLIKELY]

    def branch(self, node: int, token: int, at: int) -> Branch:
        """The one that leaves at `node` for `token`, as far as was verified."""
        choices = [self._choice(node, token)]
        child = self.tree.child(node, token)
        while child is not None:
            (token,) = self.likeliest(child, 1)
            choices.append(self._choice(child, token))
            child = self.tree.child(child, token)
        tops = tuple(choice.tops for choice in choices) if self.params.top_logprobs else ()
        logprobs = tuple(choice.logprob for choice in choices)
        return Branch(at, tuple(choice.token for choice in choices), logprobs, tops)

    def _choice(self, node: int, token: int) -> Choice:
        logprobs = self.logprobs(node)
        return Choice(token, float(logprobs[token]), most_probable(logprobs, self.params.top_logprobs))

    def _allowed(self, node: int) -> Tensor:
        """Logits of what may follow `node` [vocab]."""
        return possible(self.position.outlook, self.tree, [node], self.logits[node : node + 1])[0]

    def logprobs(self, node: int) -> Tensor:
        """Natural log-probabilities under the target of what may follow `node` [vocab]."""
        return self._allowed(node).log_softmax(-1)

    def _processed(self, node: int) -> Tensor:
        # The text matters to penalties alone, and may be long.
        minded = self.params.minds_history
        path = [*self.position.history, *self.tree.path(node)] if minded else ()
        return processed(self._allowed(node), self.params, path)
