"""Puts a context together, and decides which of its segments stay as they are from one key to the next. Pure.

The prompt's order is: stable segments, volatile ones, the suffix, the prefix; whatever changes makes the
engine read everything behind it again. So segments are chosen once and then kept, to the character, until

- the cursor is more than `JUMP_LINES` away from where they were chosen, or what the engine reads of the
  prefix begins elsewhere: by a jump, or in the course of typing;
- another document has been changed in the meantime;
- syntax was missing and has come, or the workspace had not been read and now is;
- more than `MAX_APPENDED` had to be added.

Until then nothing is taken away or moved. What is added, behind all others, are definitions of names that
have come up in the cursor's line and are finished; each name is looked up once. A new choice keeps the order
of what it shares with the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.protocol import Segment
from umbrella_lsp.activity import Recent
from umbrella_lsp.context.definitions import MAX_NAMES, foreign_definitions, own_definitions
from umbrella_lsp.context.ranges import edited, similar
from umbrella_lsp.context.segments import Chosen, LeftOut, cut, in_order_of
from umbrella_lsp.context.windows import (
    MAX_PREFIX_CHARS,
    Window,
    headers_by_indentation,
    names_in,
    names_near,
    shown_suffix,
    window_at,
)
from umbrella_lsp.document import Document
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.syntax.facts import CursorSyntax
from umbrella_lsp.text import normalised

JUMP_LINES = 20
MAX_APPENDED = 3
MAX_SCOPE_LINES = 20
MAX_SCOPE_CHARS = 1_000
MAX_IMPORT_CHARS = 1_000
PREFIX_RANK, SUFFIX_RANK, SCOPE_RANK, IMPORTS_RANK = 1.0, 0.9, 0.85, 0.8


@dataclass(frozen=True, slots=True)
class CompletionContext:
    """A cursor's surroundings with LF line ends, and the same as ranked segments for the engine."""

    path: str
    language: str
    prefix: str
    """Text before the cursor, from a line's start, as far as the window reaches."""
    suffix: str
    """Text after the cursor, as far as the window reaches."""
    segments: tuple[Segment, ...]
    """Prefix and suffix, then what the prompt has in front of them, in its order."""
    syntax: CursorSyntax | None = None
    """None where what is said of the cursor would be of an earlier text, too."""
    left_out: tuple[LeftOut, ...] = ()
    """What was found for this context, and is not among `segments`."""

    @property
    def before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @property
    def after(self) -> str:
        """The cursor's line from the cursor on."""
        return self.suffix.split("\n", 1)[0]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the last prompt for a document showed beside its prefix, and what it was chosen for.

    Pass it with the next request for the document; after a pause of some seconds do not, and what is
    shown will be up to date again.
    """

    suffix: str
    segments: tuple[Segment, ...]
    line: int
    """Where the cursor was when they were chosen."""
    read_from: int
    elsewhere: int
    """`Recent.elsewhere` of then."""
    is_parsed: bool
    is_indexed: bool
    """Whether the whole workspace was known."""
    asked: frozenset[str]
    """Names whose definitions were looked for since."""
    appended: int = 0


def build_context(
    document: Document,
    offset: int,
    *,
    name_of: Callable[[str], str],
    syntax: CursorSyntax | None = None,
    index: SymbolIndex | None = None,
    recent: Recent | None = None,
    shown: Shown | None = None,
    reach: int = MAX_PREFIX_CHARS,
) -> tuple[CompletionContext, Shown]:
    """The context of `offset` in `document`, and what to pass as `shown` with the document's next request.

    `name_of` gives the path that the model is told in the place of a document's own. `reach` is how many
    characters before the cursor the engine is known to read (`known_reach`): what lies further away may
    have to be shown by other means.
    """
    window = window_at(document, offset, name_of(document.path), reach)
    source = _Source(window, syntax, index or SymbolIndex(), recent or Recent(), name_of)
    left_out: tuple[LeftOut, ...] = ()
    now = source.kept(shown) if shown is not None and source.may_keep(shown) else None
    if now is None:
        now, left_out = source.chosen(shown)
    path, language = window.path, document.language
    segments = (
        Segment("prefix", window.prefix, path, language, PREFIX_RANK, "volatile"),
        Segment("suffix", now.suffix, path, language, SUFFIX_RANK),
        *now.segments,
    )
    # What is said of a cursor is not to be had from the tree of an earlier text; what surrounds it is.
    at_cursor = syntax if syntax is not None and syntax.is_current else None
    context = CompletionContext(path, language, window.prefix, window.suffix, segments, at_cursor, left_out)
    return context, now


@dataclass(frozen=True, slots=True)
class _Source:
    """All that segments of one request can be made from."""

    window: Window
    syntax: CursorSyntax | None
    index: SymbolIndex
    recent: Recent
    name_of: Callable[[str], str]

    @property
    def names(self) -> tuple[str, ...]:
        return (names_near(self.window) if self.syntax is None else self.syntax.names)[:MAX_NAMES]

    def may_keep(self, shown: Shown) -> bool:
        """Whether `shown` was chosen for a place and a time like this; see the module's docstring."""
        return (
            abs(self.window.line - shown.line) <= JUMP_LINES
            and self.window.read_from == shown.read_from
            and self.recent.elsewhere == shown.elsewhere
            and (shown.is_parsed or self.syntax is None)
            and (shown.is_indexed or not self.index.is_complete)
        )

    def kept(self, shown: Shown) -> Shown | None:
        """`shown`, with what has come to be needed; None if that is too much."""
        suffix = shown_suffix(self.window.suffix, shown.suffix)
        new = [name for name in names_in(self.window.before) if name not in shown.asked]
        if shown.is_parsed:  # Words in strings and comments are no names; without syntax, the next key tells.
            new = [name for name in new if self.syntax and name in self.syntax.names]
        if not new:
            return replace(shown, suffix=suffix)
        chosen = Chosen(self.window.read, suffix, *(segment.text for segment in shown.segments))
        definitions, _ = self.definitions(new)
        added = [segment for segment in definitions if chosen.add(segment)]
        appended = shown.appended + len(added)
        if appended > MAX_APPENDED:
            return None
        return replace(
            shown,
            suffix=suffix,
            segments=(*shown.segments, *added),
            asked=shown.asked | frozenset(new),
            appended=appended,
        )

    def chosen(self, before: Shown | None) -> tuple[Shown, tuple[LeftOut, ...]]:
        """A new choice, and what it leaves out. Nothing of `before` stays but the order and the suffix."""
        window = self.window
        suffix = shown_suffix(window.suffix, before.suffix) if before else window.suffix
        chosen = Chosen(window.read, suffix)
        stable = [segment for segment in self.scope() if chosen.add(segment)]
        definitions, ambiguous = self.definitions(self.names)
        offered = [
            *definitions,
            *edited(window, self.recent, self.name_of),
            *similar(window, self.recent, self.name_of),
        ]
        offered.sort(key=lambda segment: -segment.rank)
        volatile = [segment for segment in offered if chosen.add(segment)]
        now = Shown(
            suffix=suffix,
            segments=(*stable, *in_order_of(before.segments if before else (), volatile)),
            line=window.line,
            read_from=window.read_from,
            elsewhere=self.recent.elsewhere,
            is_parsed=self.syntax is not None,
            is_indexed=self.index.is_complete,
            asked=frozenset(self.names),
        )
        return now, (*chosen.left_out, *ambiguous)

    def definitions(self, names: Sequence[str]) -> tuple[list[Segment], tuple[LeftOut, ...]]:
        """Definitions of `names`, nearest first: this document's own and, of others, the workspace's."""
        syntax = self.syntax or CursorSyntax()
        own = own_definitions(self.window, syntax.definitions, names)
        at_home = {definition.name for definition in syntax.definitions}
        others = [name for name in names if name not in at_home]
        found = foreign_definitions(self.window, self.index, others, syntax.imports)
        return [*own, *found.segments], found.left_out

    def scope(self) -> list[Segment]:
        """What the cursor's code lies in and cannot be seen: imports, and headers of enclosing blocks."""
        if not self.window.first:
            return []
        imports, headers = self._imports(), self._headers()
        made = [
            (cut(imports, MAX_IMPORT_CHARS), IMPORTS_RANK),
            (cut(headers[-MAX_SCOPE_LINES:], MAX_SCOPE_CHARS), SCOPE_RANK),
        ]
        path, language = self.window.path, self.window.document.language
        return [Segment("definition", text, path, language, rank) for text, rank in made if text]

    def _imports(self) -> list[str]:
        """Imports out of sight: those of names in use first choice, then the last ones; in their order."""
        imports = list(dict.fromkeys(self.syntax.imports)) if self.syntax else []
        read, left = self.window.read, MAX_IMPORT_CHARS
        hidden = [statement for statement in imports if statement not in read]
        wanted = sorted(
            range(len(hidden)), key=lambda at: (not any(n in hidden[at] for n in self.names), -at)
        )
        taken: list[int] = []
        for at in wanted:
            left -= len(hidden[at]) + 1
            if left < 0:
                break
            taken.append(at)
        return [line for at in sorted(taken) for line in normalised(hidden[at]).split("\n")]

    def _headers(self) -> list[str]:
        """The headers out of sight of the definitions that the cursor stands in, outermost first."""
        if self.syntax is None:
            return headers_by_indentation(self.window)
        content = self.window.document.content
        lines: list[str] = []
        for scope in self.syntax.scopes:
            if scope.line < self.window.first:
                indent = normalised(content.line(scope.line))[: scope.column]
                lines += (indent + normalised(scope.header)).split("\n")
        return lines
