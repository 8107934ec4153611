"""The product: a document and an offset in, a suggestion out. Knows no LSP types and speaks to no user."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from engine.client import InfillCall, StreamEvent
from engine.protocol import StopReason, Timings, TokenCounts, UmbrellaRequest
from umbrella_lsp import syntax
from umbrella_lsp.cache import CompletionCache
from umbrella_lsp.context import CompletionContext, build_context
from umbrella_lsp.document import Document, normalised
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.postprocess import fitted
from umbrella_lsp.settings import Settings
from umbrella_lsp.stop import Extent, extent, is_done

MAX_DOCUMENT_CHARS = 10_000_000
MAX_REMEMBERED = 32
"""Documents whose shown suffix and outline are kept."""

Reason = Literal["suggested", "cached", "nothing", "disabled", "secret", "too large"]
Stop = StopReason | Literal["cached", "complete"]
"""Why a suggestion ends where it does: the engine's reason, or ours for not reading on."""
_NO_TIMINGS = Timings()
_NO_TOKENS = TokenCounts()


class Engine(Protocol):
    """Where text comes from; `link.EngineLink` is one."""

    def infill(self, call: InfillCall) -> AsyncGenerator[StreamEvent]:
        """Stream text for `call` until closed. Raises EngineUnavailable and RequestError."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """What an editor's own completion list would put between two offsets of one line."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text, in the document's own line ending, for a range that stays on one line."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    suggestion: Suggestion | None
    reason: Reason
    stop: Stop | None = None
    context_ms: float = 0.0
    timings: Timings = _NO_TIMINGS
    tokens: TokenCounts = _NO_TOKENS
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Generated:
    text: str
    stop: Stop | None = None
    timings: Timings = _NO_TIMINGS
    tokens: TokenCounts = _NO_TOKENS


@dataclass(slots=True)
class _Remembered:
    """What makes the next request for a document cheap."""

    shown_suffix: str = ""
    parsed: tuple[int, syntax.Outline] | None = None

    def read_outline(self, source: str, language: str) -> syntax.Outline:
        """`syntax.outline`, parsing only what is not what was parsed last. May be called from any thread."""
        digest, parsed = hash((source, language)), self.parsed
        if parsed is None or parsed[0] != digest:
            parsed = self.parsed = digest, syntax.outline(source, language)
        return parsed[1]


def digest(name: str) -> str:
    """A name the engine may know a document or folder by; it says nothing of where that is."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def workspace_key(roots: tuple[Path, ...]) -> str:
    """What the engine knows a workspace by; '' for none."""
    return digest(str(roots[0])) if roots else ""


def shown_path(path: str, roots: tuple[Path, ...]) -> str:
    """How the model is told a file's path: relative to its workspace folder, or the name alone."""
    for root in roots:
        if Path(path).is_relative_to(root):
            return normalised(Path(path).relative_to(root).as_posix())
    return normalised(Path(path).name)


class Completer:
    """Completes documents of one workspace. Used from one event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        index: SymbolIndex | None = None,
        roots: tuple[Path, ...] = (),
        settings: Settings | None = None,
        session: str = "",
        speculative: bool = True,
    ) -> None:
        """`session` names one slot of the engine for all documents; '' gives each document its own."""
        self.settings = settings or Settings()
        self._engine = engine
        self._index = SymbolIndex() if index is None else index
        self._roots = roots
        self._session = session
        self._speculative = speculative
        self._cache = CompletionCache()
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()

    def configure(self, settings: Settings, roots: tuple[Path, ...]) -> None:
        """Use other settings and folders from the next request on."""
        if (settings, roots) != (self.settings, self._roots):
            self.settings, self._roots = settings, roots
            self._cache.clear()

    async def complete(
        self,
        document: Document,
        offset: int,
        selection: Selection | None = None,
        *,
        invoked: bool = False,
    ) -> Outcome:
        """Suggest what comes at `offset`, extending `selection` where there is one.

        `invoked` says that somebody asked, rather than an editor by itself while they typed.
        Cancelling closes the engine's stream. Raises EngineUnavailable and RequestError.
        """
        started = time.perf_counter()
        refusal = self._refusal(document)
        if refusal:
            return Outcome(None, refusal)
        start = end = offset
        if selection:
            start, end = selection.start, selection.end
            text = document.text[:start] + selection.text + document.text[end:]
            document, offset = replace(document, text=text), start + len(selection.text)
        outcome, added = await self._continue(document, offset, invoked=invoked)
        suggestion = None
        if added:
            ending = document.line_ending
            whole = (selection.text if selection else "") + added
            suggestion = Suggestion(whole.replace("\n", ending), start, end)
        return replace(outcome, suggestion=suggestion, total_ms=_since(started))

    def _refusal(self, document: Document) -> Reason | None:
        if not self.settings.enabled:
            return "disabled"
        if is_secret(document.path):
            return "secret"
        return "too large" if len(document.text) > MAX_DOCUMENT_CHARS else None

    async def _continue(self, document: Document, offset: int, *, invoked: bool) -> tuple[Outcome, str]:
        """The outcome at `offset` but for its suggestion, and the text to add there, '' for none."""
        cached = self._cache.get(document, offset)
        if cached:
            return Outcome(None, "cached", "cached"), cached
        started = time.perf_counter()
        context = await self._context(document, offset)
        reach = extent(context, self.settings.max_lines, invoked=invoked)
        context_ms = _since(started)
        generated = await self._generate(self._call(document, context, reach), context, reach)
        text = fitted(generated.text, context, reach)
        if text:
            self._cache.put(document, offset, text)
        reason: Reason = "suggested" if text else "nothing"
        outcome = Outcome(None, reason, generated.stop, context_ms, generated.timings, generated.tokens)
        return outcome, text

    async def _context(self, document: Document, offset: int) -> CompletionContext:
        remembered = self._remembered.setdefault(document.uri, _Remembered())
        self._remembered.move_to_end(document.uri)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        # In a thread, because parsing a long file takes longer than the loop may stand still.
        context = await asyncio.to_thread(
            build_context,
            document,
            offset,
            self._index,
            path=shown_path(document.path, self._roots),
            outline=remembered.read_outline,
            suffix_shown_before=remembered.shown_suffix,
        )
        remembered.shown_suffix = next(s.text for s in context.segments if s.kind == "suffix")
        return context

    def _call(self, document: Document, context: CompletionContext, reach: Extent) -> InfillCall:
        request = UmbrellaRequest(
            segments=context.segments,
            path=context.path,
            language=context.language,
            session=self._session or digest(document.uri),
            workspace=workspace_key(self._roots),
            stop=reach.spec,
            speculative=self._speculative,
        )
        return InfillCall(umbrella=request, max_tokens=self.settings.max_tokens)

    async def _generate(self, call: InfillCall, context: CompletionContext, reach: Extent) -> _Generated:
        """Collect the engine's text until it ends, or until nothing more is needed."""
        generated = _Generated("")
        async with aclosing(self._engine.infill(call)) as events:
            async for event in events:
                text = generated.text + event.text
                generated = _Generated(text, event.reply.stop, event.reply.timings, event.reply.tokens)
                if "\n" in event.text and not event.final and is_done(context, reach, text):
                    return replace(generated, stop="complete")
        return generated


def _since(started: float) -> float:
    """Milliseconds since `started`."""
    return (time.perf_counter() - started) * 1000
