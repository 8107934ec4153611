"""Documents as they were at one moment, and positions in them. Knows nothing of LSP types or of files.

Offsets count code points. Positions are zero-based lines with a character that counts code units of
the encoding negotiated with the client (LSP 3.18, "PositionEncodingKind"). Lines end at LF, CR LF or CR
and nowhere else: a form feed, which `str.splitlines` would take for a line's end, is an ordinary
character to every editor.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal
from urllib.parse import unquote, urlsplit

PositionEncoding = Literal["utf-8", "utf-16", "utf-32"]

_LINE_END = re.compile(r"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DRIVE = re.compile(r"/[A-Za-z]:")

LANGUAGES = {
    ".c": "c",
    ".cpp": "cpp",
    ".go": "go",
    ".java": "java",
    ".js": "javascript",
    ".lua": "lua",
    ".md": "markdown",
    ".py": "python",
    ".pyi": "python",
    ".rs": "rust",
    ".sh": "shellscript",
    ".toml": "toml",
    ".ts": "typescript",
    ".yaml": "yaml",
    ".yml": "yaml",
}
"""LSP language identifiers by file name suffix, for files that no editor has named the language of."""


@dataclass(frozen=True, slots=True)
class Position:
    """A zero-based line, and code units from its start."""

    line: int
    character: int


@dataclass(frozen=True, slots=True)
class Change:
    """One content change: `text` replaces what lies between two positions, or, without them, everything."""

    text: str
    start: Position | None = None
    end: Position | None = None


def _units(char: str, encoding: PositionEncoding) -> int:
    """Code units of one character."""
    code = ord(char)
    if encoding == "utf-16":
        return 2 if code > 0xFFFF else 1
    return 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)


def path_of(uri: str) -> str:
    """The path a ``file:`` URI names; of any other URI, its path part."""
    path = unquote(urlsplit(uri).path)
    return path[1:] if _DRIVE.match(path) else path


def language_of(path: str) -> str:
    """The language a file name suggests, or ''."""
    return LANGUAGES.get(PurePath(path).suffix.lower(), "")


def normalised(text: str) -> str:
    """`text` as it goes to the engine: lines end in LF, and every character can be encoded.

    A lone surrogate is valid in JSON but not in UTF-8; it travels as a replacement character.
    """
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def indent_of(line: str) -> int:
    """Columns of blanks before a line's first other character; a tab is one, as in `StopSpec.min_indent`."""
    return len(line) - len(line.lstrip(" \t"))


@dataclass(frozen=True, slots=True)
class Document:
    """One version of one document."""

    uri: str
    text: str
    language: str = ""
    version: int | None = None
    line_starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Offset of the first character of every line; there is always at least one line."""

    def __post_init__(self) -> None:
        starts = (0, *(match.end() for match in _LINE_END.finditer(self.text)))
        object.__setattr__(self, "line_starts", starts)

    @property
    def path(self) -> str:
        return path_of(self.uri)

    @property
    def line_ending(self) -> str:
        """What ends the document's first line; LF if it has only one."""
        match = _LINE_END.search(self.text)
        return match.group() if match else "\n"

    def line_of(self, offset: int) -> int:
        """The line that holds `offset`, from 0."""
        return bisect_right(self.line_starts, offset) - 1

    def line_span(self, line: int) -> tuple[int, int]:
        """Offsets of a line's first character and of its end, its line ending excluded."""
        start = self.line_starts[line]
        if line + 1 == len(self.line_starts):
            return start, len(self.text)
        end = self.line_starts[line + 1] - 1
        return start, end - (end > start and self.text[end - 1 : end + 1] == "\r\n")

    def line(self, number: int) -> str:
        """A line's text, its line ending excluded."""
        start, end = self.line_span(number)
        return self.text[start:end]

    def offset_at(self, position: Position, encoding: PositionEncoding) -> int:
        """The offset of `position`.

        What lies past the end of a line means its end, what lies past the last line the document's end,
        and what lies inside a character its start.
        """
        if position.line >= len(self.line_starts):
            return len(self.text)
        start, end = self.line_span(position.line)
        row = self.text[start:end]
        if encoding == "utf-32" or row.isascii():
            return min(start + position.character, end)
        units = 0
        for index, char in enumerate(row):
            units += _units(char, encoding)
            if units > position.character:
                return start + index
        return end

    def position_at(self, offset: int, encoding: PositionEncoding) -> Position:
        """The position of `offset`, which lies within the text; inside a line ending it is the line's end."""
        line = self.line_of(offset)
        start, end = self.line_span(line)
        row = self.text[start : min(offset, end)]
        if encoding == "utf-32" or row.isascii():
            return Position(line, len(row))
        return Position(line, sum(_units(char, encoding) for char in row))

    def changed(self, changes: Iterable[Change], version: int | None, encoding: PositionEncoding) -> Document:
        """The document after `changes`, each of which is relative to the result of the one before."""
        document = replace(self, version=version)
        for change in changes:
            if change.start is None or change.end is None:
                document = replace(document, text=change.text)
                continue
            start = document.offset_at(change.start, encoding)
            end = max(start, document.offset_at(change.end, encoding))
            text = document.text
            document = replace(document, text=text[:start] + change.text + text[end:])
        return document


class DocumentStore:
    """The open documents, each at its latest version. One instance a client; used from one thread."""

    def __init__(self, encoding: PositionEncoding) -> None:
        self.encoding: PositionEncoding = encoding
        self._documents: dict[str, Document] = {}

    def open(self, document: Document) -> None:
        """Take in a document, replacing what was open under its URI."""
        self._documents[document.uri] = document

    def change(self, uri: str, version: int | None, changes: Iterable[Change]) -> None:
        """Bring a document to its next version. A document that is not open stays unknown."""
        document = self._documents.get(uri)
        if document is not None:
            self._documents[uri] = document.changed(changes, version, self.encoding)

    def close(self, uri: str) -> None:
        """Forget a document."""
        self._documents.pop(uri, None)

    def get(self, uri: str) -> Document | None:
        """A document as it is now; what is returned never changes."""
        return self._documents.get(uri)
