"""The workspace's symbols, in memory. Knows nothing of disks, parsers or processes: it is told what changed.

What a file defines is kept compressed, and taken apart for those files only that a name is looked up in:
ten thousand files are a few tens of megabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from umbrella_lsp.syntax.facts import DefinitionKind

MAX_SYMBOLS = 500_000
MAX_PACKED_BYTES = 100_000_000
MAX_FOUND_FILES = 64
"""Files that one name is looked up in: a name that so many define says nothing."""
MAX_REMEMBERED = 1000
"""Names whose symbols are kept at hand."""

_Row = tuple[str, DefinitionKind, int, str]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A definition another file may refer to."""

    name: str
    kind: DefinitionKind
    path: str
    """As it is shown to the model: relative to the workspace, with forward slashes."""
    language: str
    line: int
    """Of its first character, from 0."""
    text: str
    """Its beginning, in whole lines: the signature and what follows."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What one file defines, as it is sent and kept."""

    names: tuple[str, ...] = ()
    """Each once."""
    size: int = 0
    """How many symbols there are."""
    data: bytes = b""


def pack(symbols: Sequence[Symbol]) -> Packed:
    """The symbols of one file, which share path and language."""
    if not symbols:
        return Packed()
    rows: list[_Row] = [(symbol.name, symbol.kind, symbol.line, symbol.text) for symbol in symbols]
    whole = (symbols[0].path, symbols[0].language, rows)
    names = tuple(dict.fromkeys(symbol.name for symbol in symbols))
    return Packed(names, len(rows), zlib.compress(msgspec.msgpack.encode(whole)))


_decoder = msgspec.msgpack.Decoder(tuple[str, str, list[_Row]])


def unpack(packed: Packed, wanted: str = "") -> tuple[Symbol, ...]:
    """What `pack` was given, or those of one name."""
    if not packed.size:
        return ()
    path, language, rows = _decoder.decode(zlib.decompress(packed.data))
    return tuple(
        Symbol(name, kind, path, language, line, text)
        for name, kind, line, text in rows
        if not wanted or name == wanted
    )


class SymbolIndex:
    """Symbols by name. Used from one event loop."""

    def __init__(self) -> None:
        self.is_complete = False
        """Whether the whole workspace has been read. Written by who fills the index."""
        self._files: dict[str, Packed] = {}
        self._by_name: dict[str, tuple[str, ...]] = {}
        """Files, oldest known first."""
        self._found: dict[str, tuple[Symbol, ...]] = {}
        self._symbols = 0
        self._bytes = 0

    @property
    def size(self) -> int:
        """How many symbols are known."""
        return self._symbols

    def update(self, file: str, packed: Packed) -> bool:
        """Replace what is known of a file. False: there is no room for it, and it is forgotten."""
        self.remove(file)
        has_room = (
            self._symbols + packed.size <= MAX_SYMBOLS and self._bytes + len(packed.data) <= MAX_PACKED_BYTES
        )
        if not has_room or not packed.size:
            return has_room
        self._files[file] = packed
        self._symbols += packed.size
        self._bytes += len(packed.data)
        for name in packed.names:
            self._by_name[name] = (*self._by_name.get(name, ()), file)
            self._found.pop(name, None)
        return True

    def remove(self, file: str) -> None:
        """Forget a file."""
        packed = self._files.pop(file, None)
        if packed is None:
            return
        self._symbols -= packed.size
        self._bytes -= len(packed.data)
        for name in packed.names:
            self._found.pop(name, None)
            left = tuple(other for other in self._by_name[name] if other != file)
            if left:
                self._by_name[name] = left
            else:
                del self._by_name[name]

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()

    def lookup(self, name: str) -> tuple[Symbol, ...]:
        """Every symbol of that name, those of the file that is known longest first."""
        found = self._found.get(name)
        if found is None:
            files = self._by_name.get(name, ())[:MAX_FOUND_FILES]
            found = tuple(symbol for file in files for symbol in unpack(self._files[file], name))
            if found:
                if len(self._found) >= MAX_REMEMBERED:
                    self._found.clear()
                self._found[name] = found
        return found
