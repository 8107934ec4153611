"""What a syntax tree says about text that is put somewhere, without keeping it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tree_sitter import Node, Query, QueryCursor, Tree

from umbrella_lsp.syntax.cursor import Marks, brackets_of, is_statement, within
from umbrella_lsp.syntax.facts import Bracket, InsertedSyntax
from umbrella_lsp.syntax.grammar import Loaded
from umbrella_lsp.syntax.tree import SyntaxTree, leaves, path, place
from umbrella_lsp.text import Text

REACH_BYTES = 4_000
"""Where there have been errors before, others are noticed as far as this from the text."""


def inserted_syntax(
    syntax: SyntaxTree, start: int, end: int, new: str, stop: Callable[[], bool] = lambda: False
) -> InsertedSyntax | None:
    """What could be said of `new`, which has LF line ends, in the place of `start` to `end`.

    None if `stop` has ended the parsing, or that of the text it is put into.
    """
    parsed = syntax.with_text(start, end, new, stop) if syntax.is_current else None
    if parsed is None:
        return None
    text, tree = parsed
    (first, _), (last, last_point) = place(text, start), place(text, start + len(new))
    marks = Marks(syntax.grammar, tree, first, last)
    tokens = list(leaves(tree, first, last))
    statements = _statements(syntax.grammar, tree, text, marks, tokens, last)
    left = min((end_byte for end_byte, leaves_block in statements.items() if leaves_block), default=None)
    data = new.encode()

    def offset(byte: int) -> int:
        return len(data[: byte - first].decode("utf-8", "ignore"))

    brackets = ((byte, char) for token in tokens for byte, char in brackets_of(token, marks))
    return InsertedSyntax(
        brackets=tuple(Bracket(offset(byte), char) for byte, char in brackets if byte < last),
        ends=tuple(offset(byte) for byte in sorted(statements)),
        leaves_at=None if left is None else offset(left),
        within=within(tree, text, marks, last, last_point),
        is_broken=_is_broken(syntax, start, end, tree, last),
    )


def _statements(
    grammar: Loaded, tree: Tree, text: Text, marks: Marks, tokens: list[Node], last: int
) -> dict[int, bool]:
    """The byte where each statement of the cursor's own block ends, and whether it leaves the block."""
    code = [token for token in tokens if not marks.has(token, "comment")]
    if not code:
        return {}
    first = code[0]
    for block in reversed(path(tree, first.start_byte)):
        if block.is_error:
            break
        # The brace that a text begins with opens a block, but is not in it.
        begins_here = block.start_byte == first.start_byte and first.type == "{"
        if marks.has(block, "block") and not begins_here:
            return _children_ends(marks, block, first.start_byte, last)
    leaving = {node.start_byte for node in marks.nodes.get("leave", ())}
    spans = (
        _spans_by_indentation(text, marks, code) if grammar.is_indented else _spans_by_brackets(marks, code)
    )
    return {end: start in leaving for start, end in spans}


def _children_ends(marks: Marks, block: Node, start: int, last: int) -> dict[int, bool]:
    """The like of `_statements` for the children of a block that lie, be it in part, between two bytes."""
    ends: dict[int, bool] = {}
    cursor = block.walk()
    found = cursor.goto_first_child_for_byte(start) is not None
    while found and (node := cursor.node) is not None and node.end_byte <= last:
        if is_statement(marks, node) and not node.has_error:
            ends[node.end_byte] = marks.has(node, "leave")
        elif node.type == ";" and node.start_byte in ends:
            ends[node.end_byte] = ends.pop(node.start_byte)
        found = cursor.goto_next_sibling()
    return ends


def _spans_by_brackets(marks: Marks, tokens: list[Node]) -> Iterator[tuple[int, int]]:
    """Where statements seem to begin and end, by brackets and semicolons alone."""
    start: int | None = None
    depth = 0
    for token in tokens:
        start = token.start_byte if start is None else start
        closes = False
        for _, char in brackets_of(token, marks):
            depth += 1 if char in "([{" else -1
            closes = char == "}"
        if depth < 0:
            return
        if depth == 0 and (closes or token.type in (";", "\n")):
            yield start, token.end_byte
            start = None


def _spans_by_indentation(text: Text, marks: Marks, tokens: list[Node]) -> Iterator[tuple[int, int]]:
    """Where statements seem to begin and end, by brackets and indentation alone."""
    start, before = tokens[0], tokens[0]
    line = text.line(start.start_point.row)
    indent = len(line) - len(line.lstrip())
    depth = 0
    for token in tokens:
        row, column = token.start_point
        if depth == 0 and row > before.end_point.row and column <= indent:
            yield start.start_byte, before.end_byte
            start = token
            if column < indent:
                return
        for _, char in brackets_of(token, marks):
            depth += 1 if char in "([{" else -1
        before = token
    if depth == 0:
        yield start.start_byte, before.end_byte


def _is_broken(syntax: SyntaxTree, start: int, end: int, tree: Tree, last: int) -> bool:
    """Whether there are more errors in `tree`, where the text ends at the byte `last`, than without it."""
    if not tree.root_node.has_error:
        return False
    if not syntax.tree.root_node.has_error:
        return True
    first, _ = place(syntax.text, start)
    old_last, _ = place(syntax.text, end)
    errors = syntax.grammar.errors
    return _errors(errors, tree, first, last) > _errors(errors, syntax.tree, first, old_last)


def _errors(errors: Query, tree: Tree, start: int, end: int) -> int:
    query = QueryCursor(errors)
    query.set_byte_range(max(start - REACH_BYTES, 0), end + REACH_BYTES)
    return sum(map(len, query.captures(tree.root_node).values()))
