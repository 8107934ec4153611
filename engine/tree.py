"""The token tree: what drafters propose and one target pass verifies. Pure; knows no models.

Node 0 is the root: the last emitted token, whose keys and values are not cached yet. Every other
node is a guess at what follows its parent. Nodes are numbered so that a parent precedes its children.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenTree:
    """A growing tree of draft tokens.

    `scores[node]` is the drafter's probability of the whole path from the root to the node, so it
    never rises along a path; the root's is 1.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    scores: list[float]
    _children: list[dict[int, int]] = field(repr=False)

    @staticmethod
    def root(token: int) -> TokenTree:
        """A tree that holds nothing but its root."""
        return TokenTree([token], [-1], [0], [1.0], [{}])

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, probability: float) -> int:
        """The node for `token` after `parent`, made where there is none yet.

        Where two drafters propose the same token, the node is shared and keeps the higher score.
        Raises ValueError if `probability`, of `token` given its path, is not within (0, 1].
        """
        if not 0.0 < probability <= 1.0:
            raise ValueError(f"a draft probability must be within (0, 1], not {probability}")
        score = self.scores[parent] * probability
        known = self._children[parent].get(token)
        if known is not None:
            self.scores[known] = max(self.scores[known], score)
            return known
        node = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.scores.append(score)
        self._children.append({})
        self._children[parent][token] = node
        return node

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that guesses `token`."""
        return self._children[node].get(token)

    def best(self, size: int) -> TokenTree:
        """The `size` most probable guesses and the root, as a new tree: [at most size + 1 nodes].

        A node's parent scores at least as high and came first, so what is kept is a tree again.
        """
        guesses = range(1, len(self))
        kept = sorted(sorted(guesses, key=lambda node: -self.scores[node])[:size])
        pruned = TokenTree.root(self.tokens[0])
        renumbered = {0: 0}
        for node in kept:
            parent = self.parents[node]
            ratio = min(1.0, self.scores[node] / self.scores[parent])
            renumbered[node] = pruned.add(renumbered[parent], self.tokens[node], ratio)
        return pruned
