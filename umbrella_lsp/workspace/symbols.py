"""What one source offers to others. Pure; the parsing is `syntax.tree`'s."""

from __future__ import annotations

from collections.abc import Iterator

from umbrella_lsp.index import Symbol
from umbrella_lsp.syntax.facts import Definition

MAX_EXCERPT_LINES = 12
MAX_EXCERPT_CHARS = 500
MAX_SYMBOLS_IN_FILE = 500


def symbols_of(
    path: str, source: str, language: str, definitions: tuple[Definition, ...]
) -> tuple[Symbol, ...]:
    """What stands outside functions, special methods left out: the first of it, where there is too much."""
    lines = source.split("\n")
    offered = tuple(_offered(definitions))[:MAX_SYMBOLS_IN_FILE]
    return tuple(Symbol(d.name, d.kind, path, language, d.line, _excerpt(lines, d)) for d in offered)


def _excerpt(lines: list[str], definition: Definition) -> str:
    end = min(definition.end_line + 1, definition.line + MAX_EXCERPT_LINES)
    text = "\n".join(lines[definition.line : end])[:MAX_EXCERPT_CHARS]
    whole_lines = text.rfind("\n")
    return text if len(text) < MAX_EXCERPT_CHARS or whole_lines < 0 else text[:whole_lines]


def _offered(definitions: tuple[Definition, ...]) -> Iterator[Definition]:
    open_blocks: list[Definition] = []
    for definition in definitions:
        while open_blocks and open_blocks[-1].end_line < definition.line:
            open_blocks.pop()
        is_inside = any(block.kind == "function" for block in open_blocks)
        if not is_inside and definition.name and not definition.name.startswith("__"):
            yield definition
        if definition.kind != "variable":
            open_blocks.append(definition)
