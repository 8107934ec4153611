"""An answer on a terminal while it is written: markdown, of which only the last block is drawn again.

What a model writes is text: markup of rich's, HTML and escape sequences in it have no effect.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Self

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner

_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, the cursor
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"  # OSC and its like: titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]*\x1b?|[ -/]*)\Z")


class Cleaner:
    """Takes terminal control sequences out of text that comes in pieces."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown of the text so far and has not been returned yet."""
        text = self._held + piece
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._held = text[end:]
        return _CONTROL.sub("", text[:end])


def printable(text: str) -> str:
    """`text` without terminal control sequences."""
    return Cleaner().feed(text)


class Text(Markdown):
    """rich's Markdown, with HTML as the text it is, and with addresses of links to be seen."""

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = _PARSER.parse(text)


def settled(text: str) -> int:
    """How much of `text` no longer changes its looks, whatever follows: all but its last block."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map]
    if not starts:
        return 0
    return sum(len(line) + 1 for line in text.split("\n")[: starts[-1]])


class LiveAnswer:
    """A context in which an answer is drawn as `add` brings it. What is settled scrolls like any text."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cleaner = Cleaner()
        self._rest = ""
        self._waiting = Spinner("dots")
        self._live = Live(
            console=console, get_renderable=self._renderable, refresh_per_second=12, transient=True
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        rest, self._rest = self._rest, ""
        self._live.__exit__(kind, error, trace)
        if rest.strip():
            self._console.print(Text(rest))

    def add(self, piece: str) -> None:
        """Text that follows."""
        self._rest += self._cleaner.feed(piece)
        if "\n" in piece and (at := settled(self._rest)):
            done, self._rest = self._rest[:at], self._rest[at:]
            self._console.print(Text(done))
            self._console.print()

    def _renderable(self) -> RenderableType:
        return _Tail(Text(self._rest)) if self._rest.strip() else self._waiting


class _Tail:
    """The last lines of something, as many as a terminal can draw anew."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._whole, options, pad=False)
        for line in lines[-max(1, console.height - 1) :]:
            yield from line
            yield Segment.line()
