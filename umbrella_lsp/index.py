"""The workspace's symbols, in memory. Knows nothing of disks or watchers: it is told what changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from umbrella_lsp.syntax import Definition, outline

MAX_EXCERPT_LINES = 12
MAX_EXCERPT_CHARS = 500
MAX_SYMBOLS = 50_000


@dataclass(frozen=True, slots=True)
class Symbol:
    """A definition another file may refer to."""

    name: str
    path: str
    """As it is shown to the model: relative to the workspace, with forward slashes."""
    line: int
    text: str
    """Its beginning: whole lines, at most `MAX_EXCERPT_LINES` of them."""


def _excerpt(lines: list[str], definition: Definition) -> str:
    end = min(definition.end_line + 1, definition.line + MAX_EXCERPT_LINES)
    text = "\n".join(lines[definition.line : end])[:MAX_EXCERPT_CHARS]
    whole_lines = text.rfind("\n")
    return text if len(text) < MAX_EXCERPT_CHARS or whole_lines < 0 else text[:whole_lines]


def symbols_of(path: str, source: str, language: str) -> tuple[Symbol, ...]:
    """What `source` offers to others: its top level, and its classes' methods, special ones left out."""
    lines = source.split("\n")
    return tuple(
        Symbol(definition.name, path, definition.line, _excerpt(lines, definition))
        for definition in _offered(outline(source, language).definitions)
    )


def _offered(definitions: tuple[Definition, ...]) -> Iterator[Definition]:
    """Definitions outside functions, special methods left out."""
    open_blocks: list[Definition] = []
    for definition in definitions:
        while open_blocks and open_blocks[-1].end_line < definition.line:
            open_blocks.pop()
        if all(block.kind == "class" for block in open_blocks) and not definition.name.startswith("__"):
            yield definition
        if definition.kind != "variable":
            open_blocks.append(definition)


class SymbolIndex:
    """Symbols by name. Written from one thread; `lookup` may be called from any."""

    def __init__(self) -> None:
        self._by_file: dict[str, tuple[Symbol, ...]] = {}
        self._by_name: dict[str, tuple[Symbol, ...]] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """How many symbols are known."""
        return self._size

    def update(self, file: str, symbols: tuple[Symbol, ...]) -> None:
        """Replace what is known of a file. Past `MAX_SYMBOLS`, what is new is not taken in."""
        self.remove(file)
        symbols = symbols[: MAX_SYMBOLS - self._size]
        if not symbols:
            return
        self._by_file[file] = symbols
        self._size += len(symbols)
        for symbol in symbols:
            self._by_name[symbol.name] = (*self._by_name.get(symbol.name, ()), symbol)

    def remove(self, file: str) -> None:
        """Forget a file."""
        symbols = self._by_file.pop(file, ())
        self._size -= len(symbols)
        for symbol in symbols:
            left = tuple(other for other in self._by_name[symbol.name] if other is not symbol)
            if left:
                self._by_name[symbol.name] = left
            else:
                del self._by_name[symbol.name]

    def remove_under(self, path: str) -> None:
        """Forget a file, or all files under what is or was a directory."""
        for file in [f for f in self._by_file if f == path or f.startswith(path + os.sep)]:
            self.remove(file)

    def lookup(self, name: str) -> tuple[Symbol, ...]:
        """Every symbol of that name, oldest known first."""
        return self._by_name.get(name, ())
