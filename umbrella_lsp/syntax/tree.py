"""A text with its syntax tree and its outline, kept in step through edits. Pure; knows nothing of cursors.

What is found out about a document as a whole is found out once: an edit costs what it touches. But where
errors are all over a long text, tree-sitter begins again nearly from the front at each edit. So parsing is
apart from editing and can be broken off: meanwhile the old tree, with everything moved to where it is now,
tells what surrounds a place. Places in here are tree-sitter's, rows and UTF-8 bytes; what leaves the package
counts code points.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, get_args

from tree_sitter import Node, Parser, Point, QueryCursor, Tree

from umbrella_lsp.syntax.facts import Definition, DefinitionKind
from umbrella_lsp.syntax.grammar import Loaded, load
from umbrella_lsp.syntax.languages import GRAMMARS
from umbrella_lsp.text import Text

MAX_SOURCE_CHARS = 1_000_000
"""Longer files of a workspace are generated ones, and are not worth the time it takes to parse them."""
MAX_RUBBLE = 3_000
"""Tokens and trees side by side in one error. Every question would go through all of them."""
MAX_HEADER_CHARS = 1_000
"""Of a definition without a body, and of an import."""

_KINDS = get_args(DefinitionKind)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a source imports and defines, in order."""

    imports: tuple[str, ...] = ()
    definitions: tuple[Definition, ...] = ()


class _Written(NamedTuple):
    """What lay between `start` and `old_end` has come to lie between `start` and `end`."""

    start: Point
    old_end: Point
    end: Point

    def moved(self, point: Point) -> Point:
        """Where something is after it."""
        if point < self.old_end:
            return point
        column = point.column + (self.end.column - self.old_end.column) * (point.row == self.old_end.row)
        return Point(point.row + self.end.row - self.old_end.row, column)


class Placed(NamedTuple):
    """A definition, or an import, and where it is."""

    start: Point
    end: Point
    kind: str
    """A definition's, or ``import``."""
    name: str
    header: str
    body: Point | None = None
    """Where its body begins; None if it has none."""
    is_broken: bool = False
    """Only its beginning could be made out."""

    def moved(self, written: _Written) -> Placed:
        """Where it is after a change."""
        if self.end < written.old_end:
            return self
        body = self.body and written.moved(self.body)
        return self._replace(start=written.moved(self.start), end=written.moved(self.end), body=body)

    def definition(self, text: Text) -> Definition:
        """As the rest of the program knows it."""
        head = content(text, at := text.bytes_before(self.start.row), at + self.start.column)
        last = self.end.row - (self.end.column == 0 and self.end.row > self.start.row)
        kind: DefinitionKind = next(kind for kind in _KINDS if kind == self.kind)
        return Definition(kind, self.name, self.start.row, last, len(head), self.header)


class _Held:
    """What a text imports and defines."""

    def __init__(self, placed: list[Placed]) -> None:
        self.placed = placed
        """In order, with the variables of functions: what holds them may become another thing any time."""

    @cached_property
    def definitions(self) -> list[Placed]:
        """In order, without the variables of functions."""
        found: list[Placed] = []
        function_end = Point(0, 0)
        for placed in self.placed:
            if placed.kind == "variable" and placed.start < function_end:
                continue
            if placed.kind == "function" and placed.body is not None and placed.end > function_end:
                function_end = placed.end
            if placed.kind != "import":
                found.append(placed)
        return found

    @cached_property
    def by_name(self) -> dict[str, list[Placed]]:
        """The definitions."""
        found = defaultdict[str, list[Placed]](list)
        for placed in self.definitions:
            found[placed.name].append(placed)
        return found


def place(text: Text, offset: int) -> tuple[int, Point]:
    """The byte and the point of an offset."""
    line = text.line_of(offset)
    column = len(text.slice(text.line_start(line), offset).encode())
    return text.bytes_before(line) + column, Point(line, column)


def content(text: Text, start: int, end: int) -> str:
    """What lies between two bytes, without the halves of characters at its ends."""
    pieces: list[bytes] = []
    while start < end and (piece := text.read(start)[: end - start]):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces).decode("utf-8", "ignore")


def path(tree: Tree, byte: int) -> list[Node]:
    """The nodes that hold a byte, the root first."""
    cursor = tree.walk()
    nodes = [tree.root_node]
    while cursor.goto_first_child_for_byte(byte) is not None:
        node = cursor.node
        if node is None or node.start_byte > byte:
            break
        nodes.append(node)
    return nodes


def leaves(tree: Tree, start: int, end: int) -> Iterator[Node]:
    """The tokens that begin between two bytes, in order, without those that are missing."""
    cursor = tree.walk()
    while cursor.goto_first_child_for_byte(start) is not None:
        pass
    node = cursor.node
    while node is not None and node.start_byte < end:
        if not node.child_count and node.start_byte >= start and node.end_byte > node.start_byte:
            yield node
        if node.end_byte <= start or not cursor.goto_first_child():
            while not cursor.goto_next_sibling():
                if not cursor.goto_parent():
                    return
        node = cursor.node


def _never() -> bool:
    return False


def _edit(tree: Tree, old: Text, new: Text, start: int, end: int, text: str) -> _Written:
    """Move what is in `tree` to where it is in `new`, where `text` took the place of `start` to `end`."""
    (start_byte, start_point), (end_byte, end_point) = place(old, start), place(old, end)
    new_end_byte, new_end_point = place(new, start + len(text))
    tree.edit(start_byte, end_byte, new_end_byte, start_point, end_point, new_end_point)
    return _Written(start_point, end_point, new_end_point)


def _parsed(parser: Parser, text: Text, old: Tree, stop: Callable[[], bool]) -> Tree | None:
    """The tree of `text`; None if `stop` has ended it, and the same call goes on with it."""

    def is_over(_byte: int, _has_error: bool) -> bool:
        return stop()

    try:
        return parser.parse(lambda byte, _: text.read(byte), old, progress_callback=is_over)
    except ValueError:
        return None


class SyntaxTree:
    """A text, its tree and its outline. The text has LF line ends and no lone surrogates."""

    def __init__(self, grammar: Loaded, text: Text) -> None:
        self.grammar = grammar
        self.text = text
        self._parser = Parser(grammar.language)
        """Its own: what is broken off goes on where it was."""
        self.tree = self._parser.parse(lambda byte, _: text.read(byte))
        """That of `text`, or of an earlier one with everything moved to where it is now."""
        self._touched: tuple[int, int] | None = None
        """The first and the last row written to since the tree was that of the text."""
        self.is_slow = False
        """The last attempt at parsing was broken off."""
        self._held = _Held(sorted(self._found(0, text.line_count)))

    @property
    def is_current(self) -> bool:
        """Whether the tree is that of the text."""
        return self._touched is None

    @property
    def is_rubble(self) -> bool:
        """Whether there is no structure in a long text, as where its language is another one."""
        root = self.tree.root_node
        return root.is_error and root.child_count > MAX_RUBBLE

    def replace(self, start: int, end: int, new: str) -> None:
        """Put `new` in the place of what lies from `start` to `end`. The tree follows with `catch_up`."""
        before = self.text
        self.text = before.replaced(start, end, new)
        written = _edit(self.tree, before, self.text, start, end, new)
        self._parser.reset()
        first, last = written.start.row, written.end.row
        if rows := self.text.line_count - before.line_count:
            placed = self._held.placed
            left = (p for p in placed if not written.start <= p.start < written.old_end)
            self._held = _Held([p.moved(written) for p in left])
        if self._touched is not None:
            first, last = min(first, self._touched[0]), max(last, self._touched[1] + rows)
        self._touched = first, last

    def catch_up(self, stop: Callable[[], bool] = _never) -> bool:
        """Make the tree that of the text; False if `stop`, which is asked all the time, has ended that.

        What was done till then is not done again, unless the text is changed meanwhile.
        """
        if self._touched is None:
            return True
        text, old = self.text, self.tree
        new = _parsed(self._parser, text, old, stop)
        self.is_slow = new is None
        if new is None:
            return False
        # Rows in which anything can differ.
        ranges = old.changed_ranges(new)
        first = min([self._touched[0], *(r.start_point.row for r in ranges)])
        last = max([self._touched[1], *(r.end_point.row for r in ranges)])
        self.tree, self._touched = new, None
        placed = self._held.placed
        at = bisect_left(placed, (Point(last + 1, 0),))
        kept = [p for p in placed[:at] if p.end.row < first] + placed[at:]
        for found in self._found(first, last + 1):
            insort(kept, found)
        # How far an error reaches is no change to tree-sitter, so something that came of one may be left.
        has_errors = new.root_node.has_error
        kept = kept if has_errors else [p for p in kept if not p.is_broken]
        if kept != placed:
            self._held = _Held(kept)
        return True

    def with_text(
        self, start: int, end: int, new: str, stop: Callable[[], bool] = _never
    ) -> tuple[Text, Tree] | None:
        """The text and the tree that `replace` and `catch_up` would lead to. Keeps neither.

        None if `stop` has ended it.
        """
        text, copy = self.text.replaced(start, end, new), self.tree.copy()
        _edit(copy, self.text, text, start, end, new)
        tree = _parsed(Parser(self.grammar.language), text, copy, stop)
        self.is_slow = tree is None
        return None if tree is None else (text, tree)

    @property
    def imports(self) -> tuple[str, ...]:
        """Statements that bring in names, in order."""
        return tuple(dict.fromkeys(p.header for p in self._held.placed if p.kind == "import"))

    def definitions(self, before: Point | None = None) -> list[Placed]:
        """Those that begin before a place, or all of them, in order; but for variables of functions."""
        found = self._held.definitions
        return found[: bisect_left(found, (before,))] if before else found

    def named(self, names: set[str], line: int, most: int) -> tuple[Definition, ...]:
        """The definitions of `names`, in order: if there are more than `most`, those nearest to `line`."""
        found = sorted(p for name in names for p in self._held.by_name.get(name, ()))
        found = sorted(found, key=lambda p: abs(p.start.row - line))[:most]
        return tuple(p.definition(self.text) for p in sorted(found, key=lambda p: p.start))

    def _found(self, first: int, end: int) -> list[Placed]:
        """What the outline's query finds that touches the rows from `first` on and before `end`."""
        query = QueryCursor(self.grammar.outline)
        start_byte, end_byte = self.text.bytes_before(first), self.text.bytes_before(end)
        query.set_byte_range(max(start_byte - 1, 0), max(end_byte, start_byte + 1))
        found: dict[tuple[int, str], Placed] = {}
        for _, captures in query.matches(self.tree.root_node):
            for kind in (*_KINDS, "import"):
                for node in captures.get(kind, ()):
                    if node.start_point.row >= end or node.end_point.row < first:
                        continue
                    placed = self._placed_at(node, kind, captures)
                    key = node.start_byte, placed.name
                    # What matches several patterns is what the one with a body takes it for.
                    if key not in found or placed.body:
                        found[key] = placed
        return list(found.values())

    def _placed_at(self, node: Node, kind: str, captures: dict[str, list[Node]]) -> Placed:
        name = content(self.text, n.start_byte, n.end_byte) if (n := _first(captures, "name")) else ""
        row, column = node.start_point
        line_start = self.text.bytes_before(row)
        # Words such as `export`, `type` or `template <...>` belong to it, though not to its node.
        before = content(self.text, line_start, line_start + column)
        if not any(char in before for char in "{};"):
            column = len(before) - len(before.lstrip())
        start, start_byte = Point(row, column), line_start + column
        body = _first(captures, "body")
        if is_broken := kind != "import" and node.parent is not None and node.parent.is_error:
            end = self.text.bytes_before(row + 1)
        else:
            end = body.start_byte if body else node.end_byte
        header = content(self.text, start_byte, min(end, start_byte + 4 * MAX_HEADER_CHARS))
        header = header[:MAX_HEADER_CHARS].rstrip()
        if is_broken:
            return Placed(start, start, kind, name, header.removesuffix("{").rstrip(), is_broken=True)
        return Placed(start, node.end_point, kind, name, header, body.start_point if body else None)


def _first(captures: dict[str, list[Node]], name: str) -> Node | None:
    return next(iter(captures.get(name, ())), None)


def outline(source: str, language: str) -> Outline:
    """Imports and definitions of `source`, nested ones included. Broken source gives what can be made out.

    A language without a grammar, and a source of more than `MAX_SOURCE_CHARS`, have an empty outline.
    """
    grammar = GRAMMARS.get(language)
    if grammar is None or len(source) > MAX_SOURCE_CHARS:
        return Outline()
    tree = SyntaxTree(load(grammar), Text.of(source).normalised())
    return Outline(tree.imports, tuple(placed.definition(tree.text) for placed in tree.definitions()))
