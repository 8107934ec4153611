"""A document as an editor holds it, and positions in it as LSP 3.18 counts them.

Written without looking at the server's own, which it is there to contradict.
"""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.recordings import Patch, applied

Encoding = Literal["utf-8", "utf-16"]


def units(text: str, encoding: Encoding) -> int:
    """Code units of `text`."""
    if text.isascii():
        return len(text)
    if encoding == "utf-8":
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def line_span(text: str, offset: int) -> tuple[int, int]:
    """Where the line of `offset` starts and ends, its line ending excluded."""
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    ends = [at for at in (text.find("\n", offset), text.find("\r", offset)) if at >= 0]
    return start, min(ends, default=len(text))


def position(text: str, offset: int, encoding: Encoding) -> dict[str, int]:
    """`offset` as an LSP position."""
    breaks = text.count("\n", 0, offset) + text.count("\r", 0, offset) - text.count("\r\n", 0, offset)
    start, _ = line_span(text, offset)
    return {"line": breaks, "character": units(text[start:offset], encoding)}


def offset_on_line(text: str, cursor: int, place: dict[str, int], encoding: Encoding) -> int | None:
    """The offset of an LSP position. None if it is not on the line of `cursor`, or is inside a character."""
    start, end = line_span(text, cursor)
    if place["line"] != position(text, cursor, encoding)["line"]:
        return None
    counted, offset = 0, start
    while counted < place["character"] and offset < end:
        counted += units(text[offset], encoding)
        offset += 1
    return offset if counted == place["character"] else None


class ClientDocument:
    """One open document."""

    def __init__(self, text: str, encoding: Encoding) -> None:
        self.text = text
        self._encoding: Encoding = encoding

    def change(self, patch: Patch) -> dict[str, Any]:
        """Apply `patch`; the change to tell a server of. Raises RecordingError if it lies outside."""
        start, end, inserted = patch.at, patch.deleted_end, patch.inserted
        # No position lies between the two halves of a line ending.
        if self.text[max(start - 1, 0) : start + 1] == "\r\n":
            start, inserted = start - 1, "\r" + inserted
        if self.text[max(end - 1, 0) : end + 1] == "\r\n" and end > start:
            end, inserted = end + 1, inserted + "\n"
        where = {
            "start": position(self.text, start, self._encoding),
            "end": position(self.text, end, self._encoding),
        }
        self.text = applied(self.text, patch)
        return {"range": where, "text": inserted}

    def position(self, offset: int) -> dict[str, int]:
        """`offset` as an LSP position."""
        return position(self.text, offset, self._encoding)
