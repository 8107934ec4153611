"""Documents with a marked cursor, for tests that read like what is on the screen."""

from __future__ import annotations

from umbrella_lsp.context import CompletionContext, build_context
from umbrella_lsp.document import Document
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.syntax.facts import CursorSyntax

CURSOR = "‸"


def at_cursor(marked: str, language: str = "python") -> tuple[Document, int]:
    """The document and the offset that `marked` shows."""
    before, after = marked.split(CURSOR)
    return Document.of("file:///home/someone/app.py", before + after, language, 1), len(before)


def context_at(
    marked: str,
    index: SymbolIndex | None = None,
    language: str = "python",
    syntax: CursorSyntax | None = None,
) -> CompletionContext:
    """The context of the cursor in `marked`, in a file called app.py whatever its language."""
    document, offset = at_cursor(marked, language)
    context, _ = build_context(document, offset, name_of=lambda _: "app.py", syntax=syntax, index=index)
    return context
