"""What tree-sitter says about Python source: imports, definitions, scopes, finished blocks. Pure.

Knows nothing of documents, cursors or the workspace. Sources have LF line ends; other languages have
no outline yet and get an empty one, so callers need not ask which languages are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import tree_sitter_python
from tree_sitter import Language, Node, Parser, Query, QueryCursor

MAX_SOURCE = 1_000_000
"""Characters: longer sources are generated ones, and are not worth the time it takes to parse them."""

_TERMINAL_WORDS = ("return", "raise", "break", "continue", "pass")
_TERMINAL = {f"{word}_statement" for word in _TERMINAL_WORDS}
_OUTLINE = """
(import_statement) @import
(import_from_statement) @import
(class_definition) @definition
(function_definition) @definition
(module (expression_statement (assignment left: (identifier) @variable)))
"""


@dataclass(frozen=True, slots=True)
class Definition:
    """A class, a function or a module's variable."""

    kind: Literal["class", "function", "variable"]
    name: str
    line: int
    """Zero-based line of its first character, decorators excluded."""
    end_line: int
    """Line of its last character."""
    column: int
    """Bytes before it on that line; as indentation is ASCII, also columns."""
    header: str
    """From ``def`` or ``class`` to the colon; of a variable, the whole assignment."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a source imports and defines, in order."""

    imports: tuple[str, ...] = ()
    definitions: tuple[Definition, ...] = ()


@cache
def _language() -> Language:
    return Language(tree_sitter_python.language())


@cache
def _outline_query() -> Query:
    return Query(_language(), _OUTLINE)


def _parse(source: str) -> Node:
    return Parser(_language()).parse(source.encode("utf-8", "replace")).root_node


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _block(node: Node) -> Definition | None:
    """A class or function of its node, or None where the source is too broken for it to have a name."""
    name = node.child_by_field_name("name")
    body = node.child_by_field_name("body")
    if name is None or body is None:
        return None
    header = (node.text or b"")[: body.start_byte - node.start_byte].decode("utf-8", "replace").rstrip()
    kind = "class" if node.type == "class_definition" else "function"
    return Definition(kind, _text(name), *_place(node), header)


def _variable(node: Node) -> Definition | None:
    statement = node.parent
    return Definition("variable", _text(node), *_place(statement), _text(statement)) if statement else None


def _place(node: Node) -> tuple[int, int, int]:
    """First line, last line, column."""
    return node.start_point.row, node.end_point.row, node.start_point.column


def outline(source: str, language: str) -> Outline:
    """Imports and definitions of `source`, nested ones included. Broken source gives what can be made out."""
    if language != "python" or len(source) > MAX_SOURCE:
        return Outline()
    captures = QueryCursor(_outline_query()).captures(_parse(source))
    found = [_block(node) for node in captures.get("definition", ())]
    found += [_variable(node) for node in captures.get("variable", ())]
    definitions = sorted((d for d in found if d is not None), key=lambda d: (d.line, d.column))
    imports = sorted(captures.get("import", ()), key=lambda node: node.start_byte)
    return Outline(tuple(_text(node) for node in imports), tuple(definitions))


def enclosing(outline: Outline, indent: int) -> tuple[Definition, ...]:
    """The definitions that a line indented by `indent` would be in after the source, outermost first."""
    chain: list[Definition] = []
    for definition in reversed(outline.definitions):
        if definition.kind != "variable" and definition.column < indent:
            chain.append(definition)
            indent = definition.column
    return tuple(reversed(chain))


def block_is_complete(source: str, start: int, language: str) -> bool:
    """Whether what follows offset `start` ends with a whole ``return`` or the like of its own block.

    Its own block is the one its first line of code stands in: a ``return`` nested deeper ends nothing.
    Statements that take several lines are not noticed.
    """
    generated = source[start:]
    last_line = generated.rstrip().rsplit("\n", 1)[-1].strip()
    if language != "python" or not last_line.startswith(_TERMINAL_WORDS):
        return False
    first = start + len(generated) - len(generated.lstrip())
    first_column = first - (source.rfind("\n", 0, first) + 1)
    end = len(source.rstrip().encode("utf-8", "replace"))
    node = _parse(source).descendant_for_byte_range(end - 1, end)
    while node is not None and node.type not in _TERMINAL:
        node = node.parent
    return (
        node is not None
        and node.end_byte >= end
        and not node.has_error
        and node.start_point.column == first_column
        and node.parent is not None
        and node.parent.type == "block"
    )
