"""The token tree: what drafters propose and one target pass verifies. Pure; knows no models.

Node 0 is the root: the last emitted token, whose keys and values are not cached yet. Every other
node is a guess at what follows its parent. Nodes are numbered so that a parent precedes its children.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenTree:
    """A growing tree of draft tokens.

    `chances[node]` is the probability that the target draws the node's token if it gets to its parent,
    and `scores[node]` that it gets to the node: the product along the path, so it never rises on the way
    down. The root's are 1.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    chances: list[float]
    scores: list[float]
    _children: list[dict[int, int]] = field(repr=False)

    @staticmethod
    def root(token: int) -> TokenTree:
        """A tree that holds nothing but its root."""
        return TokenTree([token], [-1], [0], [1.0], [1.0], [{}])

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, chance: float) -> int:
        """The node for `token` after `parent`, made where there is none yet.

        Where two drafters propose the same token, the node is shared and keeps the higher chance. Raises
        ValueError if `chance`, of `token` given its path, is not within (0, 1].
        """
        if not 0.0 < chance <= 1.0:
            raise ValueError(f"a draft probability must be within (0, 1], not {chance}")
        known = self._children[parent].get(token)
        if known is not None:
            if chance > self.chances[known]:
                self.chances[known] = chance
                self._rescore(known)
            return known
        node = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.chances.append(chance)
        self.scores.append(self.scores[parent] * chance)
        self._children.append({})
        self._children[parent][token] = node
        return node

    def _rescore(self, node: int) -> None:
        self.scores[node] = self.scores[self.parents[node]] * self.chances[node]
        for child in self._children[node].values():
            self._rescore(child)

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that guesses `token`."""
        return self._children[node].get(token)

    def children(self, node: int) -> Mapping[int, int]:
        """The children of `node` by their tokens, in the order they were added."""
        return self._children[node]

    def path(self, node: int) -> list[int]:
        """Tokens from below the root down to `node`, its own included."""
        path: list[int] = []
        while node > 0:
            path.append(self.tokens[node])
            node = self.parents[node]
        return path[::-1]

    def ranked(self) -> list[int]:
        """All guesses, the most probable first; a parent comes before its children."""
        # Sorting is stable, and a parent scores at least as high and has the smaller number.
        return sorted(range(1, len(self)), key=lambda node: -self.scores[node])

    def only(self, nodes: Sequence[int]) -> TokenTree:
        """The root and `nodes`, which hold every node's parent, as a new tree numbered in the old order."""
        part = TokenTree.root(self.tokens[0])
        renumbered = {0: 0}
        for node in sorted(nodes):
            parent = renumbered[self.parents[node]]
            renumbered[node] = part.add(parent, self.tokens[node], self.chances[node])
        return part
