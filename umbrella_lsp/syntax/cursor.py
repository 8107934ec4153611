"""What a syntax tree says about the place of a cursor. Pure.

Sources are broken more often than not while somebody types. Where an error hides what encloses the cursor,
the tokens before it are searched for brackets that are not closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from tree_sitter import Node, Point, QueryCursor, Tree

from umbrella_lsp.syntax.facts import CursorSyntax, Within
from umbrella_lsp.syntax.grammar import BRACKETS, MAX_BRACKET_CHARS, STATEMENT_ENDS, Loaded
from umbrella_lsp.syntax.tree import Placed, SyntaxTree, content, path, place
from umbrella_lsp.text import Text

LINES_BEFORE = 20
LINES_AFTER = 5
"""Names are looked for in so many lines around a cursor."""
MAX_NAMES = 64
MAX_DEFINITIONS = 64
SCAN_LINES = 300
"""In broken source, brackets that were opened further up are not noticed."""

_PAIRS = {")": "(", "]": "[", "}": "{"}
_BEFORE_LITERAL = frozenset(("=", "(", "[", ",", ":", "return", "?"))
"""After these, a brace opens a value and not a block."""
_LONG_QUOTES = ('"""', "'''", "`")
"""Strings in these go on over a line's end. Prefixes stand before them."""


class Marks:
    """What the query captures around a cursor, between two bytes."""

    def __init__(self, grammar: Loaded, tree: Tree, start: int, end: int) -> None:
        self.start = start
        query = QueryCursor(grammar.around)
        query.set_byte_range(start, max(end, start + 1))
        self.nodes = query.captures(tree.root_node)
        self._ids = {name: {node.id for node in nodes} for name, nodes in self.nodes.items()}

    def has(self, node: Node, *names: str) -> bool:
        """Whether a node is captured under one of the names."""
        return any(node.id in self._ids.get(name, ()) for name in names)


def brackets_of(token: Node, marks: Marks) -> Iterator[tuple[int, str]]:
    """The brackets of a token and their bytes: `${` is a brace, `[[` is two brackets."""
    if token.is_named or BRACKETS.isdisjoint(token.type) or len(token.type) > MAX_BRACKET_CHARS:
        return
    # The delimiters of a raw string are tokens of their own.
    if token.parent is not None and marks.has(token.parent, "string"):
        return
    for at, char in enumerate(token.type):
        if char in BRACKETS:
            yield token.start_byte + at, char


def is_statement(marks: Marks, node: Node) -> bool:
    """Whether a child of a block is one of the statements it is there for."""
    return node.is_named and not marks.has(node, "comment", "label")


def within(tree: Tree, text: Text, marks: Marks, at: int, point: Point) -> Within:
    """Whether a byte, which must lie within the marks, is between the characters of a string or a comment."""
    found: Within = "code"
    for node in path(tree, max(at - 1, 0)):
        if marks.has(node, "comment"):
            # A comment that goes to the line's end has an end only there.
            is_closed = at == node.end_byte and content(text, max(at - 2, 0), at) == "*/"
            found = "code" if is_closed else "comment"
        elif marks.has(node, "string"):
            is_open = bool(node.children) and node.children[-1].is_missing
            found = "string" if node.start_byte < at < node.end_byte or is_open else "code"
        elif marks.has(node, "code"):
            found = "string" if at == node.end_byte else "code"
    quotes = [quote for quote in marks.nodes.get("unclosed", ()) if quote.end_byte <= at]
    if found == "code" and quotes:
        quote = max(quotes, key=lambda node: node.start_byte)
        is_long = content(text, quote.start_byte, quote.end_byte).endswith(_LONG_QUOTES)
        return "string" if is_long or quote.start_point.row == point.row else "code"
    return found


def last_token(tree: Tree, text: Text, marks: Marks, offset: int) -> Node | None:
    """The last token of code that ends at `offset` or before it, among the marks' lines."""
    for line in range(text.line_of(offset), max(text.line_of(offset) - LINES_BEFORE, 0) - 1, -1):
        start = text.line_start(line)
        before = text.slice(start, min(offset, text.line_span(line)[1])).rstrip()
        while before:
            byte, _ = place(text, start + len(before))
            nodes = path(tree, byte - 1)
            comment = next((node for node in nodes if marks.has(node, "comment")), None)
            if comment is None:
                return nodes[-1]
            size = max(comment.start_byte - text.bytes_before(line), 0)
            before = before.encode()[:size].decode("utf-8", "ignore").rstrip()
    return None


class _Unclosed(NamedTuple):
    """A bracket that nothing has closed."""

    char: str
    token: Node
    since: Point
    """Where the statement began that opens it, as far as can be told from tokens."""


class _Place(NamedTuple):
    """A cursor, and what is asked of it again and again."""

    syntax: SyntaxTree
    marks: Marks
    offset: int
    byte: int
    point: Point
    token: Node | None
    """The last one before it."""
    nodes: list[Node]
    """Those that hold the cursor, or end at it."""
    unclosed: list[_Unclosed] | None
    """The brackets that are open at the cursor, where an error may hide what encloses it."""


def _looked_at(syntax: SyntaxTree, offset: int) -> _Place:
    text, tree = syntax.text, syntax.tree
    byte, point = place(text, offset)
    start = text.bytes_before(max(point.row - LINES_BEFORE, 0))
    end = text.bytes_before(point.row + LINES_AFTER + 1)
    marks = Marks(syntax.grammar, tree, start, end)
    token = last_token(tree, text, marks, offset)
    touches = token is not None and token.end_byte == byte
    nodes = path(tree, byte - 1 if touches else byte)
    enclosing = nodes if token is None else [*nodes, *path(tree, token.start_byte)]
    is_broken = any(node.is_error for node in enclosing) or any(
        child.is_missing for node in enclosing if node.has_error for child in node.children[-1:]
    )
    unclosed = _unclosed(syntax, marks, byte, point) if is_broken else None
    return _Place(syntax, marks, offset, byte, point, token, nodes, unclosed)


def _unclosed(syntax: SyntaxTree, marks: Marks, byte: int, point: Point) -> list[_Unclosed]:
    """The brackets that are open at a byte, outermost first, of the last `SCAN_LINES` lines."""
    first = max(point.row - SCAN_LINES, 0)
    start = syntax.text.bytes_before(first)
    query = QueryCursor(syntax.grammar.delimiters)
    query.set_byte_range(start, max(byte, start + 1))
    stack: list[_Unclosed] = []
    since = Point(first, 0)
    tokens = query.captures(syntax.tree.root_node).get("delimiter", [])
    placed = sorted(((token.start_byte, token) for token in tokens), key=itemgetter(0))
    for at, token in placed:
        if not start <= at < byte or token.is_missing:
            continue
        kind = token.type
        # Outside of the marks nothing is known of strings.
        chars = kind if at < marks.start else "".join(char for _, char in brackets_of(token, marks))
        for char in chars:
            if char in _PAIRS:
                while stack and stack.pop().char != _PAIRS[char]:
                    pass
            elif char in BRACKETS:
                stack.append(_Unclosed(char, token, since))
        if kind in STATEMENT_ENDS:
            since = token.end_point
    return stack


def _statement(at: _Place) -> Node | None:
    """The statement that the cursor stands inside or at the unfinished end of, where that can be told."""
    if at.token is not None and at.marks.has(at.token, "opener"):
        return None
    statement = None
    for block, node in pairwise(at.nodes):
        if node.is_error:
            return None
        if at.marks.has(block, "block"):
            is_begun = node.start_byte < at.byte
            statement = node if is_begun and is_statement(at.marks, node) else None
    if at.marks.has(at.nodes[-1], "block") or statement is None:
        return None
    is_over = at.token is None or at.token.type in (";", ")", "]", "}")
    return None if is_over and statement.end_byte <= at.byte else statement


def _scopes(at: _Place, statement: Node | None) -> list[Placed]:
    """The definitions around the cursor, outermost first."""
    placed = [p for p in at.syntax.definitions(at.point) if p.kind != "variable"]
    if at.syntax.grammar.is_indented:
        return _scopes_by_indentation(at, statement, placed)
    inside = [p for p in placed if p.body and p.body < at.point < p.end]
    for bracket in at.unclosed or ():
        if bracket.char == "{":
            inside += [p for p in placed if bracket.since <= p.start <= bracket.token.start_point][:1]
    return sorted(dict.fromkeys(inside))


def _scopes_by_indentation(at: _Place, statement: Node | None, placed: list[Placed]) -> list[Placed]:
    text, row = at.syntax.text, at.point.row
    line = text.line(row)
    indent = at.point.column if not line.strip() else len(line) - len(line.lstrip())
    if statement is not None:
        indent = statement.start_point.column
    last = at.token.end_point if at.token is not None else Point(row, 0)
    chain: list[Placed] = []
    for candidate in reversed([p for p in placed if p.is_broken or p.end >= last]):
        column = candidate.start.column
        if column >= indent or candidate.start.row == row:
            continue
        if candidate.is_broken:
            rows = range(max(candidate.start.row + 1, row - SCAN_LINES), row)
            lines = (text.line(number) for number in rows)
            if any(line.strip() and len(line) - len(line.lstrip()) <= column for line in lines):
                continue
        chain.append(candidate)
        indent = column
    return chain[::-1]


def _names(at: _Place) -> tuple[str, ...]:
    """Names around the cursor, nearest first."""
    nodes = [
        node
        for node in at.marks.nodes.get("identifier", ())
        if not node.start_byte < at.byte <= node.end_byte
        and -LINES_BEFORE <= node.start_point.row - at.point.row <= LINES_AFTER
    ]
    nodes.sort(key=lambda node: (max(at.byte - node.end_byte, node.start_byte - at.byte), node.start_byte))
    names: dict[str, None] = {}
    for node in nodes:
        name = content(at.syntax.text, node.start_byte, node.end_byte)
        if len(name) > 1:
            names[name] = None
        if len(names) == MAX_NAMES:
            break
    return tuple(names)


def _in_statement(at: _Place, statement: Node | None) -> bool:
    if statement is not None and not statement.is_error:
        return statement.start_point.row < at.point.row
    if not at.unclosed:
        return False
    bracket = at.unclosed[-1]
    return bracket.token.start_point.row < at.point.row and _opens_value(at, bracket)


def _opens_value(at: _Place, bracket: _Unclosed) -> bool:
    """Whether a bracket opens a value: arguments, a list, a dictionary."""
    if bracket.char != "{" or at.syntax.grammar.is_indented:
        return True
    text, row = at.syntax.text, bracket.token.start_point.row
    offset = text.line_start(row) + len(content(text, text.bytes_before(row), bracket.token.start_byte))
    before = last_token(at.syntax.tree, text, at.marks, offset)
    return before is not None and before.type in _BEFORE_LITERAL


def cursor_syntax(syntax: SyntaxTree, offset: int) -> CursorSyntax:
    """What can be said of a cursor at `offset` of the tree's text."""
    at = _looked_at(syntax, offset)
    statement = _statement(at)
    names = _names(at)
    token = at.token
    opens = token is not None and (token.type[-1:] in ("(", "[", "{") or at.marks.has(token, "opener"))
    where = within(syntax.tree, syntax.text, at.marks, at.byte, at.point)
    return CursorSyntax(
        within=where,
        imports=syntax.imports,
        scopes=tuple(placed.definition(syntax.text) for placed in _scopes(at, statement)),
        names=names,
        definitions=syntax.named(set(names), at.point.row, MAX_DEFINITIONS),
        opens_block=opens and where == "code",
        in_statement=_in_statement(at, statement),
        is_current=syntax.is_current,
    )
