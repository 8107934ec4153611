"""What a tree policy is. The decoder verifies the trees it makes, and cannot be led astray by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.draft.base import BeforeLayer, DraftMemory, Opening, Outlook
from engine.errors import is_loss
from engine.tree import TokenTree

SpareMs = Callable[[], float]
"""How long, from now, the device has nothing to do but to wait for the target's next layer."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a generation stands when a tree is wanted."""

    history: Sequence[int]
    """Everything so far: the tree's root is its last token."""
    pending: int
    """Tokens before the root that the target's pass has to read as well."""
    left: int
    """Tokens that may still be emitted, at least 1. A tree need be no deeper than one less."""
    outlook: Outlook


class PolicySession(Protocol):
    """One generation's trees."""

    @property
    def failed(self) -> Sequence[str]:
        """Drafters that raised and are not asked again."""
        ...

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:
        """The tree to verify next: at most `TreePolicy.most_nodes`.

        `before_layer` is called before every layer that is run; what it raises passes through.
        """
        ...

    def grow_on(self, spare_ms: SpareMs, before_layer: BeforeLayer) -> None:
        """Draft ahead, for the tree after the one that `grow` made last, as far as there is time to spare.

        Called between two layers of the pass that verifies it. `before_layer` as in `grow`.
        """
        ...

    def learn(self, emitted: Sequence[int]) -> None:
        """Take in the tokens [at least 1] that the target drew from the root of the last tree on."""
        ...


class TreePolicy(Protocol):
    """How trees are made. Belongs to the engine, and may learn over all generations."""

    @property
    def most_nodes(self) -> int:
        """Rows that a tree may have, its root included."""
        ...

    def new_memories(self) -> tuple[DraftMemory, ...]:
        """What a slot keeps for this policy's drafters."""
        ...

    def open(self, memories: Sequence[DraftMemory], opening: Opening, *, greedy: bool) -> PolicySession:
        """Begin a generation with what `new_memories` made; `greedy`: its draws are not random."""
        ...


class Attempt:
    """Calls into a drafter, whose failure is not the request's.

    What `before_layer` raises is an interruption and passes, and so does the loss of the device; all else is
    the drafter's own fault.
    """

    def __init__(self, before_layer: BeforeLayer) -> None:
        self._inner = before_layer
        self._interruption: BaseException | None = None

    def before_layer(self, layer: int) -> None:
        """To hand to the drafter in place of the `before_layer` given."""
        try:
            self._inner(layer)
        except BaseException as error:
            self._interruption = error
            raise

    def succeeds(self, action: Callable[[], None]) -> bool:
        """Whether `action` ended without an error of its own."""
        try:
            action()
        except Exception as error:
            if error is self._interruption or is_loss(error):
                raise
            return False
        return True
