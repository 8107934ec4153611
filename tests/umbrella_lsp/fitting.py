"""Cases of post-processing as text: a document with its cursor, what was generated there, what is inserted.

A file holds the cases of one language, one after another::

    === what it shows (invoked)
    f(‸)
    --- generated
    a).b
    --- inserted for )
    a).b

What follows a heading is the text, without its last line end; the document has it. ``inserted for`` names
the characters right of the cursor that are replaced. ``␣`` is a blank and ``⇥`` a tab, wherever an editor
would take them away. In brackets stand, where they matter: ``invoked``, for somebody who asked, and the
language, if it is not the file's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.umbrella_lsp.cursor import CURSOR, context_at
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.fit.postprocess import Fitted, fitted
from umbrella_lsp.fit.stop import Extent, extent
from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.facts import InsertedSyntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.inserted import inserted_syntax
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.syntax.tree import SyntaxTree
from umbrella_lsp.text import Text, normalised

MAX_LINES = 8
LANGUAGES = {"tsx": "typescriptreact", "plain": "lua"}
"""By file name, where that is not the language's own."""
_HEADING = re.compile(r"^=== (.*?)(?: \(([\w, ]+)\))?$", re.MULTILINE)
_PARTS = re.compile(r"(.*?\n)--- generated\n(.*?)--- inserted(?: for (.*?))?\n(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Case:
    """One case, as written in a file."""

    name: str
    language: str
    marked: str
    generated: str
    inserted: Fitted
    invoked: bool


def read_cases(path: Path) -> list[Case]:
    """The cases of a file. Raises ValueError if one is not as described above."""
    text = path.read_text(encoding="utf-8").replace("␣", " ").replace("⇥", "\t")
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    return [
        _case(heading, text[heading.end() + 1 : end], path.stem)
        for heading, end in zip(headings, ends, strict=True)
    ]


def _case(heading: re.Match[str], body: str, name: str) -> Case:
    parts = _PARTS.fullmatch(body)
    if parts is None or parts[1].count(CURSOR) != 1:
        raise ValueError(
            f"{name}: {heading[1]}: not a document with a cursor, what was generated, and inserted"
        )
    options = (heading[2] or "").split(", ")
    language = next((o for o in options if o not in ("", "invoked")), LANGUAGES.get(name, name))
    inserted = Fitted(parts[4].removesuffix("\n"), len(parts[3] or ""))
    return Case(
        f"{name}: {heading[1]}",
        language,
        parts[1],
        parts[2].removesuffix("\n"),
        inserted,
        "invoked" in options,
    )


class Cursor:
    """A marked place in a document, with its syntax or without."""

    def __init__(self, marked: str, language: str, *, has_syntax: bool, invoked: bool = False) -> None:
        self._offset = marked.index(CURSOR)
        source = marked.replace(CURSOR, "")
        self._tree: SyntaxTree | None = None
        if has_syntax:
            self._tree = SyntaxTree(load(GRAMMARS[language]), Text.of(normalised(source)))
        facts = cursor_syntax(self._tree, self._offset) if self._tree else None
        self.context: CompletionContext = context_at(marked, language=language, syntax=facts)
        self.extent: Extent = extent(self.context, MAX_LINES, invoked=invoked)

    def inserted(self, text: str) -> InsertedSyntax | None:
        """What syntax says of `text` here."""
        if self._tree is None:
            return None
        return inserted_syntax(self._tree, self._offset, self._offset, normalised(text))

    def fit(self, text: str) -> Fitted:
        """What of `text` may be inserted here."""
        return fitted(text, self.context, self.extent, self.inserted(text))
