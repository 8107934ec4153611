"""What a drafter is. A wrong guess costs time, never correctness: the target decides every token.

A `Drafter` belongs to the engine; its `DraftMemory` to a slot, where it outlives requests; a `DraftSession`
to one generation. A session does not say how probable its guesses are but what speaks for them, its
*evidence*; what that is worth is learnt from what the target makes of it (see `calibration`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.config import EngineConfig
from engine.tree import TokenTree

BeforeLayer = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Bounds on trees, under UMbreLLa's names.

    `size` is the most guesses the target verifies in one pass, and `depth` how far ahead of the root they go.
    A draft model expands and adds at most `width` nodes a level, of `num_beams` children each.
    """

    size: int
    depth: int
    width: int
    num_beams: int

    @staticmethod
    def of(config: EngineConfig) -> TreeLimits:
        """Those that `config` sets."""
        return TreeLimits(config.tree_size - 1, config.depth, config.width, config.num_beams)

    @property
    def most_grown(self) -> int:
        """Guesses that a tree may hold before its best `size` are chosen."""
        return 4 * (self.size + self.width)


def anything(_path: Sequence[int]) -> None:
    """Where any token may follow any other."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known beforehand of the text to come: guesses against it are not worth a row."""

    ends: frozenset[int] = frozenset()
    """Tokens that end the text."""
    breaks: frozenset[int] = frozenset()
    """Tokens that break a line."""
    breaks_left: int | None = None
    """The line break that ends the text, counted from here; None if none does."""
    allowed: Callable[[Sequence[int]], Sequence[int] | None] = anything
    """Ids, ascending, of what may follow a path of tokens from here; None if anything may."""

    def closes(self, tree: TokenTree, node: int) -> bool:
        """Whether the text is over with `node`."""
        token = tree.tokens[node]
        if token in self.ends:
            return True
        if self.breaks_left is None or token not in self.breaks:
            return False
        return sum(step in self.breaks for step in tree.path(node)) >= self.breaks_left


@dataclass(frozen=True, slots=True)
class Opening:
    """What a generation begins with."""

    prompt: Sequence[int]
    previous: Sequence[int]
    """The prompt and the answer that its slot was last used for."""
    workspace: str = ""
    """The workspace whose text may be looked at; '' for none."""


class Growth(Protocol):
    """The tree of one step, as one drafter sees it."""

    @property
    def tree(self) -> TokenTree: ...
    @property
    def history(self) -> Sequence[int]:
        """Everything so far; the root is its last token."""
        ...

    @property
    def limits(self) -> TreeLimits: ...
    @property
    def outlook(self) -> Outlook: ...
    def uncovered(self, node: int) -> float:
        """The probability that the target gets to `node` and draws none of its children there."""
        ...

    def is_open(self, node: int) -> bool:
        """Whether the text may go on after `node`."""
        ...

    def add(self, parent: int, token: int, evidence: int) -> int | None:
        """The node for `token` after `parent`; None where it is not worth one, and nothing below it is."""
        ...


class DraftSession(Protocol):
    """One generation's drafting."""

    def begin(self, history: Sequence[int]) -> None:
        """A new step: the tree is back to its root, ``history[-1]``. `history` has only grown since."""
        ...

    def uncovered(self, growth: Growth) -> float:
        """The probability that the target leaves the tree where `deepen` would add to it: 0 if nowhere."""
        ...

    def cost_ms(self, growth: Growth) -> float:
        """What `deepen` will take."""
        ...

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        """Add guesses. `before_layer` is called before every layer; what it raises passes through."""
        ...


class DraftMemory(Protocol):
    """What a slot keeps for one drafter between requests."""

    def open(self, opening: Opening) -> DraftSession:
        """Begin a generation."""
        ...

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None:
        """Take over what `other`, of the same drafter, knows of the beginning of `tokens`, if it is more."""
        ...


class Drafter(Protocol):
    """A source of guesses."""

    @property
    def name(self) -> str: ...

    @property
    def priors(self) -> Sequence[Sequence[float]]:
        """By evidence, in kinds: how often a guess is right, before anything is learnt."""
        ...

    def new_memory(self) -> DraftMemory: ...
