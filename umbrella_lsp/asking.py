"""Puts questions to the engine: gathers a cursor's context, words the request, begins to read the answer."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from engine.client import InfillCall
from engine.protocol import Priority, UmbrellaRequest
from umbrella_lsp.activity import Activity
from umbrella_lsp.context import Shown, build_context, known_reach
from umbrella_lsp.context.windows import MAX_PREFIX_CHARS
from umbrella_lsp.document import Document
from umbrella_lsp.fit.stop import extent
from umbrella_lsp.generation import Engine, Generation, Place, Syntax
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.memory import Memory, Tier
from umbrella_lsp.names import digest, shown_path, workspace_key
from umbrella_lsp.settings import Settings

IDLE_S = 5.0
"""After a pause like this the context is gathered anew: nobody types whom reading it again could delay."""
MAX_REMEMBERED = 32
"""Documents of which it is kept what the engine was last shown."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the engine was last shown of one document, when, and how much of it that was."""

    shown: Shown | None = None
    at_s: float = -math.inf
    reach: int = MAX_PREFIX_CHARS


class Asker:
    """Asks about documents of one workspace. Used from one event loop."""

    def __init__(
        self,
        engine: Engine,
        syntax: Syntax,
        memory: Memory,
        index: SymbolIndex,
        activity: Activity,
        *,
        session: str,
        speculative: bool,
        ended: Callable[[Generation], None],
    ) -> None:
        self.settings = Settings()
        self.roots: tuple[Path, ...] = ()
        self._engine = engine
        self._syntax = syntax
        self._memory = memory
        self._index = index
        self._activity = activity
        self._session = session
        self._speculative = speculative
        self._ended = ended
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def place(
        self, document: Document, offset: int, *, longer: bool = False, is_real: bool = True
    ) -> Place:
        """A cursor and all that is to be known of it. `longer` wants more lines than the cursor's own there.

        A document that `is_real` is one that is open, rather than one that may come to be.
        """
        facts = await self._syntax.at(document, offset)
        known = self._known.get(document.uri) or _Known()
        is_fresh = time.monotonic() - known.at_s < IDLE_S
        context, shown = build_context(
            document,
            offset,
            name_of=lambda path: shown_path(path, self.roots),
            syntax=facts,
            index=self._index,
            recent=self._activity.recent(document.uri),
            shown=known.shown if is_fresh else None,
            reach=known.reach,
        )
        if is_real:
            self._keep(document.uri, replace(known, shown=shown, at_s=time.monotonic()))
        return Place(document, offset, context, extent(context, self.settings.max_lines, invoked=longer))

    def generate(
        self, place: Place, tier: Tier = "target", priority: Priority = "typing", texts: int = 1
    ) -> Generation:
        """Begin to read what the engine says at `place`: at most so many `texts`."""
        context = place.context
        request = UmbrellaRequest(
            segments=context.segments,
            path=context.path,
            language=context.language,
            session=self._session or digest(place.document.uri),
            workspace=workspace_key(self.roots),
            priority=priority,
            n=texts,
            tier=tier,
            stop=place.extent.spec,
            speculative=self._speculative,
        )
        call = InfillCall(umbrella=request, max_tokens=self.settings.max_tokens)
        return Generation(place, call, self._engine, self._syntax, self._memory, self._ended)

    def learn(self, generation: Generation) -> None:
        """Note how much of the context the engine has room for."""
        uri = generation.anchor.uri
        if generation.fates and uri in self._known:
            reach = known_reach(self._known[uri].reach, generation.place.context.segments, generation.fates)
            self._keep(uri, replace(self._known[uri], reach=reach))

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._known.pop(uri, None)

    def _keep(self, uri: str, known: _Known) -> None:
        self._known[uri] = known
        self._known.move_to_end(uri)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
