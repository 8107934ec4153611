"""What is on its way for one document: a text of each tier, the one after an accept, a question put off.

Owns when they end. Knows nothing of what is asked, nor of what is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Literal

from umbrella_lsp.document import Document
from umbrella_lsp.fit.postprocess import Fitted
from umbrella_lsp.generation import Generation
from umbrella_lsp.memory import Anchor, Entry, left_of

LINGER_S = 0.5
"""What nobody waits for any more goes on for so long: editors cancel before they ask again."""

Role = Literal["target", "draft", "next"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A suggestion as it was last given to the editor."""

    anchor: Anchor
    fitted: Fitted
    is_begun: bool = False
    """The user has typed or accepted some of it before."""

    def rest(self, document: Document, offset: int) -> Rest | None:
        """What is left of it at `offset`; None if something else was typed."""
        run = self.anchor.run_to(document, offset)
        rest = left_of(self.fitted, run) if run else None
        return Rest(rest, self.is_begun or bool(run.typed)) if run and rest else None

    def is_used_up(self, document: Document, offset: int) -> bool:
        """Whether all of it was accepted or typed, up to `offset`."""
        rest = self.rest(document, offset)
        return rest is not None and not rest.fitted.text

    def leads_to(self, document: Document) -> bool:
        """Whether all that has changed is that some of it was typed, or all."""
        return any(left_of(self.fitted, run) is not None for run in self.anchor.runs(document))


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a suggestion."""

    fitted: Fitted
    is_begun: bool
    """Some of it was typed or accepted."""


class Ongoing:
    """Generations for one document, at most one in each role. Used from one event loop."""

    def __init__(self) -> None:
        self.shown: Shown | None = None
        self._running: dict[Role, Generation] = {}
        self._next_from: Shown | None = None
        """The suggestion whose accept the text in the role ``next`` is for."""
        self._later: asyncio.Task[None] | None = None
        self._lingering: dict[Generation, asyncio.TimerHandle] = {}

    def begin(self, role: Role, generation: Generation) -> Generation:
        """Take in what has been begun, in the place of what was in its role."""
        self._end(role)
        self._running[role] = generation
        self._next_from = self.shown if role == "next" else self._next_from
        return generation

    def agreeing(self, role: Role, document: Document, offset: int) -> Generation | None:
        """A text on its way that may be what is typed up to `offset`.

        What was for later takes the role ``target`` where that has none and asks for one.
        """
        generation = self._running.get(role)
        if generation and not generation.over and generation.agrees(document, offset):
            return generation
        ahead = self.agreeing("next", document, offset) if role == "target" else None
        if ahead:
            self._end("target")
            self._running["target"] = self._running.pop("next")
        return ahead

    def making(self, entry: Entry) -> Generation | None:
        """The text on its way that fills `entry`."""
        return next((g for g in self._running.values() if g.entry is entry and not g.over), None)

    def put_off(self, work: Coroutine[object, object, None]) -> None:
        """Do `work`, which begins with a wait, unless the document changes or something else is put off."""
        self._forget_later()
        self._later = asyncio.create_task(work)

    def changed(self, document: Document) -> None:
        """Close every stream that what was typed contradicts."""
        self._forget_later()
        for role in list(self._running):
            if not self._leads_to(role, document):
                self._end(role)

    def abandoned(self, generation: Generation) -> None:
        """Close `generation` soon unless somebody waits for it again: its request was cancelled."""
        if generation in self._lingering:
            self._lingering.pop(generation).cancel()

        def close() -> None:
            del self._lingering[generation]
            if not generation.waiting and not generation.entry.texts:
                generation.cancel()

        self._lingering[generation] = asyncio.get_running_loop().call_later(LINGER_S, close)

    def cancel(self) -> None:
        """Close everything."""
        self._forget_later()
        for role in list(self._running):
            self._end(role)
        self.shown = None

    def _leads_to(self, role: Role, document: Document) -> bool:
        if role == "next" and self._next_from and self._next_from.leads_to(document):
            return True
        return self._running[role].leads_to(document)

    def _end(self, role: Role) -> None:
        if role in self._running:
            self._running.pop(role).cancel()

    def _forget_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
