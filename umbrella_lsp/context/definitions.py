"""Which definitions the names in use refer to: in this document, and in the workspace's other files. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from engine.protocol import Segment
from umbrella_lsp.context.segments import LeftOut, cut
from umbrella_lsp.context.windows import Window
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.index import Symbol, SymbolIndex
from umbrella_lsp.syntax.facts import Definition
from umbrella_lsp.text import normalised

MAX_NAMES = 24
MAX_OWN = 3
MAX_FOREIGN = 5
MAX_LINES = 12
MAX_CHARS = 500
MEMBERS_WITHIN_CHARS = 2_000
OWN_RANK, IMPORTED_RANK, NEIGHBOUR_RANK, OTHER_RANK = 0.7, 0.65, 0.6, 0.4
RANK_STEP = 0.01
"""Between a definition and the next one of its sort."""

_WORD = re.compile(r"[\w-]+")
_RELATIVE = re.compile(r"""["']\.|\bfrom\s+\.|\b(?:crate|super|self)::|#\s*include\s*\"""")
_NOT_A_MODULE = {"__init__", "index", "lib", "mod"}
"""Files that a module's path does not name."""
_ONE_PACKAGE_A_FOLDER = {"go", "java"}
"""Languages in which a folder's files see each other without an import."""
_FOLDER_IS_MODULE = {"go"}
"""Languages whose imports name no file."""
_FAMILIES = (
    {"c", "cpp"},
    {"javascript", "javascriptreact", "typescript", "typescriptreact"},
)
"""Languages that refer to each other's definitions."""
_KINDS = ("class", "type", "function", "module", "variable")
"""What is shown first of several things of one name."""


@dataclass(frozen=True, slots=True)
class _Import:
    """A statement that brings in names."""

    text: str
    words: str
    """Those of the text, each between blanks."""

    @staticmethod
    def of(text: str) -> _Import:
        return _Import(text, f" {' '.join(_WORD.findall(text))} ")

    def has(self, *words: str) -> bool:
        """Whether `words` stand in it in a row."""
        return f" {' '.join(words)} " in self.words


@dataclass(frozen=True, slots=True)
class Found:
    """Definitions to show, best first, and names that cannot be told apart."""

    segments: tuple[Segment, ...]
    left_out: tuple[LeftOut, ...]


def own_definitions(window: Window, definitions: Sequence[Definition], names: Sequence[str]) -> list[Segment]:
    """The beginnings of definitions of this document that the window does not show, nearest name first."""
    content, language = window.document.content, window.document.language
    hidden = [d for d in definitions if d.name in names and not window.shows(d.line, d.line)]
    nearest = sorted(hidden, key=lambda d: names.index(d.name))[:MAX_OWN]
    segments: list[Segment] = []
    for place, definition in enumerate(nearest):
        end = min(definition.end_line + 1, definition.line + MAX_LINES, content.line_count)
        text = cut((normalised(content.line(n)) for n in range(definition.line, end)), MAX_CHARS)
        rank = OWN_RANK - place * RANK_STEP
        segments.append(Segment("definition", text, window.path, language, rank, "volatile"))
    return segments


def foreign_definitions(
    window: Window, index: SymbolIndex, names: Sequence[str], imports: Sequence[str]
) -> Found:
    """What `names`, nearest first, refer to in other files.

    A name that several files define counts only if an import, or for some languages the folder, tells
    which; and one that is imported from where no file of the workspace is counts not at all. What lies
    within another definition counts where the name is used as a member's.
    """
    near = window.prefix[-MEMBERS_WITHIN_CHARS:]
    segments: list[Segment] = []
    left_out: list[LeftOut] = []
    statements = [_Import.of(statement) for statement in imports]
    for place, name in enumerate(names):
        is_member = bool(re.search(rf"[.>:]{re.escape(name)}(?!\w)", near))
        candidates = [
            symbol
            for symbol in index.lookup(name)
            if _is_eligible(symbol, window) and (is_member or not symbol.text[:1].isspace())
        ]
        if not candidates:
            continue
        naming = [statement for statement in statements if statement.has(name)]
        rated = [(_nearness(symbol, window, naming or statements), symbol) for symbol in candidates]
        best = max(rate for rate, _ in rated)
        files = {symbol.path for rate, symbol in rated if rate == best}
        is_known = best[0] > 0 or (best[1] and window.document.language in _ONE_PACKAGE_A_FOLDER)
        if naming and not best[0]:
            left_out.append(LeftOut("definition", name, "is imported from outside the workspace"))
        elif len(files) > 1 or (not is_known and len({symbol.path for symbol in candidates}) > 1):
            left_out.append(LeftOut("definition", name, "is defined in several files"))
        else:
            likely = (symbol for rate, symbol in rated if rate == best)
            symbol = min(likely, key=lambda symbol: (_KINDS.index(symbol.kind), symbol.line))
            rank = IMPORTED_RANK if best[0] else NEIGHBOUR_RANK if best[1] else OTHER_RANK
            segments.append(_segment(symbol, rank - place * RANK_STEP / 4))
    segments.sort(key=lambda segment: -segment.rank)
    return Found(tuple(segments[:MAX_FOREIGN]), tuple(left_out))


def _segment(symbol: Symbol, rank: float) -> Segment:
    return Segment("definition", symbol.text, symbol.path, symbol.language, rank, "volatile")


def _is_eligible(symbol: Symbol, window: Window) -> bool:
    """Whether code in the window's language can refer to `symbol`, and may be shown it."""
    languages = next((f for f in _FAMILIES if window.document.language in f), {window.document.language})
    return symbol.path != window.path and symbol.language in languages and not is_secret(symbol.path)


def _nearness(symbol: Symbol, window: Window, imports: Sequence[_Import]) -> tuple[float, bool]:
    """How much of the symbol's path the imports name, and whether it lies in the document's folder."""
    path = PurePosixPath(symbol.path)
    is_beside = path.parent == PurePosixPath(window.path).parent
    is_module = path.stem not in _NOT_A_MODULE and symbol.language not in _FOLDER_IS_MODULE
    parts = [*path.parts[:-1], *([path.stem] if is_module else [])]
    best = 0.0
    for statement in imports:
        named = float(_named_run(parts, statement))
        if not named and statement.has(symbol.name):
            # It may come by way of another module: of a folder's index, or of a neighbour.
            is_near = is_beside and _RELATIVE.search(statement.text)
            named = 0.5 if is_near or any(map(statement.has, parts)) else 0.0
        if named and path.name in statement.text:  # As C does: a header, and not its implementation.
            named += 1
        best = max(best, named)
    return best, is_beside


def _named_run(parts: Sequence[str], statement: _Import) -> int:
    """How many of the last `parts` of a path stand in a row among the words of an import."""
    size = 0
    while size < len(parts) and statement.has(*parts[-size - 1 :]):
        size += 1
    return size
