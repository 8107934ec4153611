"""Drafts from text that exists already, for code repeats itself: no pass, only looking up.

Prompt lookup decoding (Saxena 2023) follows what stood after the same few tokens before; SuffixDecoding
(Oliaro et al. 2024) the longest agreement, over more than the prompt. Evidence is the number of tokens that
agree, those before a guess within its continuation among them, and whether places contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Protocol

from engine.draft.base import BeforeLayer, DraftMemory, Growth, Opening
from engine.draft.suffix import LONGEST, Match, SuffixIndex

PLACES = 4
"""Continuations followed a step."""
COST_MS = 0.03
"""Of looking up and of adding what was found."""
_LENGTHS = range(LONGEST + 1)
_OVERRULED, _DISPUTED, _ALONE, _UNANIMOUS = (kind * len(_LENGTHS) for kind in range(4))
"""First evidence of a kind: a better place says otherwise; a worse one does; there is no other; all agree."""
PRIORS = (
    tuple(0.15 for _ in _LENGTHS),
    tuple(0.2 + 0.045 * length for length in _LENGTHS),
    tuple(0.94 - 0.55 * 0.75**length for length in _LENGTHS),
    tuple(0.98 - 0.55 * 0.65**length for length in _LENGTHS),
)
"""By kind, then by tokens that agree. Measured on Python."""
AROUND = LONGEST
"""Tokens before the place where a text was changed that are looked up along with what stood there."""


class LookupSession:
    """Follows the best places that `find` knows, once a step; None knows none."""

    def __init__(self, find: Callable[[Sequence[int]], Sequence[Match]] | None) -> None:
        self._find = find
        self._done = False

    def begin(self, history: Sequence[int]) -> None:  # noqa: ARG002 - looked at only if asked to draft
        self._done = self._find is None

    def uncovered(self, growth: Growth) -> float:
        """All that is left of the root: a continuation of any depth may be found."""
        return 0.0 if self._done else growth.uncovered(0)

    def cost_ms(self, growth: Growth) -> float:  # noqa: ARG002 - the same whatever the tree
        return COST_MS

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:  # noqa: ARG002 - runs no layer
        self._done = True
        if self._find is None:
            return
        # The likeliest first, for a tree holds only so many guesses.
        groups = [(-1.0, 0, self._find(growth.history), 0)]
        while groups:
            _, parent, places, ahead = heappop(groups)
            agreeing: dict[int, list[Match]] = {}
            for place in places:
                if ahead < len(place.continuation):
                    agreeing.setdefault(place.continuation[ahead], []).append(place)
            for rank, (token, those) in enumerate(agreeing.items()):
                if len(agreeing) > 1:
                    kind = _OVERRULED if rank else _DISPUTED
                else:
                    kind = _UNANIMOUS if len(those) > 1 else _ALONE
                node = growth.add(parent, token, kind + min(those[0].length + ahead, LONGEST))
                if node is not None:
                    heappush(groups, (-growth.tree.scores[node], node, those, ahead + 1))


class PromptMemory:
    """The index of a slot's text, which the next request mostly goes on with."""

    def __init__(self) -> None:
        self._index = SuffixIndex(key=2)

    def open(self, opening: Opening) -> LookupSession:  # noqa: ARG002 - the history says it all
        index, seen = self._index, False

        def find(history: Sequence[int]) -> Sequence[Match]:
            nonlocal seen
            # Whether the text is still the one that was indexed is asked once: from then on it only grows.
            (index.extend if seen else index.update)(history)
            seen = True
            return index.matches(history, PLACES)

        return LookupSession(find)

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None:
        """Nothing: the index is made of the history."""


class PromptDrafter:
    """Follows what stood after the same tokens earlier in the prompt and the answer."""

    name = "prompt"
    priors = PRIORS

    def new_memory(self) -> PromptMemory:
        return PromptMemory()


class PreviousMemory:
    """Keeps nothing: the slot keeps the text that it was last used for."""

    def open(self, opening: Opening) -> LookupSession:
        if not opening.previous:
            return LookupSession(None)
        pairs = zip(opening.previous, opening.prompt, strict=False)
        shared = next((at for at, (old, new) in enumerate(pairs) if old != new), len(opening.prompt))
        index = SuffixIndex(key=1)
        index.update(opening.previous[max(0, shared - AROUND) :])
        return LookupSession(lambda history: index.matches(history, PLACES))

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None:
        """Nothing is kept."""


class PreviousDrafter:
    """Follows the previous suggestion, and the text that stood where the user has since typed."""

    name = "previous"
    priors = PRIORS

    def new_memory(self) -> PreviousMemory:
        return PreviousMemory()


class Searchable(Protocol):
    """An index of a workspace's text; see `engine.workspace`."""

    def matches(self, tail: Sequence[int], limit: int) -> Sequence[Match]: ...


class WorkspaceMemory:
    """Keeps nothing: workspaces are the engine's, and change under it."""

    def __init__(self, workspaces: Callable[[str], Searchable | None]) -> None:
        self._workspaces = workspaces

    def open(self, opening: Opening) -> LookupSession:
        index = self._workspaces(opening.workspace) if opening.workspace else None
        if index is None:
            return LookupSession(None)
        return LookupSession(lambda history: index.matches(history[-LONGEST:], PLACES))

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None:
        """Nothing is kept."""


class WorkspaceDrafter:
    """Follows what stands after the same tokens elsewhere in the workspace."""

    name = "workspace"
    priors = PRIORS

    def __init__(self, workspaces: Callable[[str], Searchable | None]) -> None:
        self._workspaces = workspaces

    def new_memory(self) -> WorkspaceMemory:
        return WorkspaceMemory(self._workspaces)
