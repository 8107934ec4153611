"""Which languages have a grammar: a row here and a query file a language. Knows nothing of parsers.

A query file ``queries/NAME.scm`` is written in tree-sitter's query language and has two parts, divided by a
line of its own that reads ``; --- around a cursor``. The first is run over whole files:

    @import         a statement that brings in names
    @class @function @variable @type @module
                    a definition of that kind, with its @name and, if it has one, its @body; variables
                    of functions do not count, wherever they match

The second is run over a few lines:

    @identifier     a name in use
    @string @comment    where no code stands, and @code, where code stands again inside of them
    @unclosed       a quote that begins what is no string, as it is not closed
    @block          what holds statements: its named children, but for comments and what is a @label
    @leave          a statement after which no other of its block can be reached
    @opener         a token, other than a bracket, that opens a block
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grammar:
    """Where a language's grammar and queries are to be found."""

    module: str
    """Of the wheel that the grammar came in."""
    queries: tuple[str, ...]
    """Names of query files. What grammars have in common is written down once."""
    function: str = "language"
    """Of that module: gives the grammar."""
    is_indented: bool = False
    """Blocks are told by indentation, not by braces."""


GRAMMARS = {
    "c": Grammar("tree_sitter_c", ("c",)),
    "cpp": Grammar("tree_sitter_cpp", ("c", "cpp")),
    "go": Grammar("tree_sitter_go", ("go",)),
    "java": Grammar("tree_sitter_java", ("java",)),
    "javascript": Grammar("tree_sitter_javascript", ("ecmascript",)),
    "javascriptreact": Grammar("tree_sitter_javascript", ("ecmascript",)),
    "python": Grammar("tree_sitter_python", ("python",), is_indented=True),
    "rust": Grammar("tree_sitter_rust", ("rust",)),
    "typescript": Grammar("tree_sitter_typescript", ("ecmascript", "typescript"), "language_typescript"),
    "typescriptreact": Grammar("tree_sitter_typescript", ("ecmascript", "typescript"), "language_tsx"),
}
"""By LSP's language identifiers."""
