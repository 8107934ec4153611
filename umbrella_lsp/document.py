"""Documents as they were at one moment, and positions in them. Knows nothing of LSP types or of files.

Offsets count code points. Positions are zero-based lines with a character that counts code units of
the encoding negotiated with the client (LSP 3.18, "PositionEncodingKind").
"""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import unquote, urlsplit

from umbrella_lsp.text import Text

PositionEncoding = Literal["utf-8", "utf-16", "utf-32"]

_log = logging.getLogger(__name__)

_DRIVE = re.compile(r"/[A-Za-z]:")

LANGUAGES = {
    ".bash": "shellscript",
    ".c": "c",
    ".cc": "cpp",
    ".cjs": "javascript",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".css": "css",
    ".cts": "typescript",
    ".cxx": "cpp",
    ".dart": "dart",
    ".ex": "elixir",
    ".exs": "elixir",
    ".go": "go",
    ".h": "c",
    ".hh": "cpp",
    ".hpp": "cpp",
    ".hs": "haskell",
    ".html": "html",
    ".hxx": "cpp",
    ".java": "java",
    ".jl": "julia",
    ".js": "javascript",
    ".json": "json",
    ".jsx": "javascriptreact",
    ".kt": "kotlin",
    ".kts": "kotlin",
    ".less": "less",
    ".lua": "lua",
    ".md": "markdown",
    ".mjs": "javascript",
    ".ml": "ocaml",
    ".mts": "typescript",
    ".php": "php",
    ".pl": "perl",
    ".ps1": "powershell",
    ".py": "python",
    ".pyi": "python",
    ".r": "r",
    ".rb": "ruby",
    ".rs": "rust",
    ".scala": "scala",
    ".scss": "scss",
    ".sh": "shellscript",
    ".sql": "sql",
    ".swift": "swift",
    ".tex": "latex",
    ".toml": "toml",
    ".ts": "typescript",
    ".tsx": "typescriptreact",
    ".vue": "vue",
    ".xml": "xml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".zig": "zig",
    ".zsh": "shellscript",
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


@dataclass(frozen=True, slots=True)
class Edit:
    """One change that was made: `text` took the place of what lay from `start` to `end`, in code points."""

    start: int
    end: int
    text: str


def _units(text: str, encoding: PositionEncoding) -> int:
    """Code units of a text."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    if encoding == "utf-16":
        return len(text.encode("utf-16-le", "surrogatepass")) // 2
    return len(text.encode("utf-8", "surrogatepass"))


def path_of(uri: str) -> str:
    """The path a ``file:`` URI names; of any other URI, its path part."""
    path = unquote(urlsplit(uri).path)
    return path[1:] if _DRIVE.match(path) else path


def language_of(path: str) -> str:
    """The language a file name suggests, or ''."""
    # Once a file of a workspace, where a `PurePath` takes its time.
    return LANGUAGES.get(os.path.splitext(path)[1].lower(), "")  # noqa: PTH122


def indent_of(line: str) -> int:
    """Columns of blanks before a line's first other character; a tab is one, as in `StopSpec.min_indent`."""
    return len(line) - len(line.lstrip(" \t"))


@dataclass(frozen=True, slots=True)
class Document:
    """One version of one document."""

    uri: str
    content: Text
    language: str = ""
    version: int | None = None

    @staticmethod
    def of(uri: str, text: str, language: str = "", version: int | None = None) -> Document:
        """The document that holds `text`."""
        return Document(uri, Text.of(text), language, version)

    @property
    def text(self) -> str:
        """All of it, put together anew: for the command line and for tests, not for each key."""
        return str(self.content)

    @property
    def path(self) -> str:
        return path_of(self.uri)

    @property
    def line_ending(self) -> str:
        """What ends the document's first line; LF if it has only one."""
        return self.content.slice(self.content.line_span(0)[1], self.content.line_start(1)) or "\n"

    def offset_at(self, position: Position, encoding: PositionEncoding) -> int:
        """The offset of `position`.

        What lies past the end of a line means its end, what lies past the last line the document's end,
        and what lies inside a character its start.
        """
        if position.line >= self.content.line_count:
            return len(self.content)
        start, end = self.content.line_span(max(position.line, 0))
        # A character has one code unit at least, so no more characters than units are of interest.
        row = self.content.slice(start, min(end, start + max(position.character, 0)))
        if _units(row, encoding) <= position.character:
            return start + len(row)
        sizes = range(1, len(row) + 1)
        return start + bisect_right(sizes, position.character, key=lambda size: _units(row[:size], encoding))

    def position_at(self, offset: int, encoding: PositionEncoding) -> Position:
        """The position of `offset`, which lies within the text; inside a line ending it is the line's end."""
        line = self.content.line_of(offset)
        start, end = self.content.line_span(line)
        return Position(line, _units(self.content.slice(start, min(offset, end)), encoding))

    def replaced(self, start: int, end: int, new: str) -> Document:
        """This document with `new` in the place of what lies from offset `start` to `end`.

        Raises ValueError if `start` and `end` are not within the text, in this order.
        """
        return replace(self, content=self.content.replaced(start, end, new))

    def edit_of(self, change: Change, encoding: PositionEncoding) -> Edit:
        """What a change comes to in this document. A range that runs backwards means the same forwards."""
        if change.start is None or change.end is None:
            return Edit(0, len(self.content), change.text)
        start, end = sorted(self.offset_at(place, encoding) for place in (change.start, change.end))
        return Edit(start, end, change.text)


class DocumentStore:
    """The open documents, each at its latest version. One instance a client; used from one thread."""

    def __init__(self, encoding: PositionEncoding) -> None:
        self.encoding: PositionEncoding = encoding
        self._documents: dict[str, Document] = {}

    def open(self, document: Document) -> None:
        """Take in a document, replacing what was open under its URI."""
        self._documents[document.uri] = document

    def change(self, uri: str, version: int | None, changes: Iterable[Change]) -> tuple[Edit, ...]:
        """Bring a document to its next version. A document that is not open stays unknown.

        Returns what each change came to, in the document as the one before had left it. A version that is
        not higher than the last is taken in all the same: the change is relative to what the client holds.
        """
        document = self._documents.get(uri)
        if document is None:
            _log.warning("a change to a document that is not open was ignored; it has to be opened first")
            return ()
        if version is not None and document.version is not None and version < document.version:
            _log.warning("a document went from version %d back to %d", document.version, version)
        edits: list[Edit] = []
        for change in changes:
            edit = document.edit_of(change, self.encoding)
            document = document.replaced(edit.start, edit.end, edit.text)
            edits.append(edit)
        self._documents[uri] = replace(document, version=version)
        return tuple(edits)

    def close(self, uri: str) -> None:
        """Forget a document."""
        self._documents.pop(uri, None)

    def __iter__(self) -> Iterator[Document]:
        return iter([*self._documents.values()])

    def get(self, uri: str) -> Document | None:
        """A document as it is now; what is returned never changes."""
        return self._documents.get(uri)
