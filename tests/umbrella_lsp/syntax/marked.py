"""Facts about marked sources, asked without a process between."""

from __future__ import annotations

from tests.umbrella_lsp.cursor import CURSOR
from umbrella_lsp.syntax.cursor import cursor_syntax
from umbrella_lsp.syntax.facts import CursorSyntax, InsertedSyntax
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.inserted import inserted_syntax
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.syntax.tree import SyntaxTree
from umbrella_lsp.text import Text


def _tree(marked: str, language: str) -> tuple[SyntaxTree, int]:
    before, after = marked.split(CURSOR)
    return SyntaxTree(load(GRAMMARS[language]), Text.of(before + after)), len(before)


def facts_at(marked: str, language: str = "python") -> CursorSyntax:
    """What is so at the cursor in `marked`."""
    return cursor_syntax(*_tree(marked, language))


def facts_of(marked: str, new: str, language: str = "python") -> InsertedSyntax:
    """What is so once `new` stands at the cursor in `marked`."""
    tree, offset = _tree(marked, language)
    facts = inserted_syntax(tree, offset, offset, new)
    assert facts is not None
    return facts
