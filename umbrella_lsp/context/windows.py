"""The text on both sides of a cursor as far as it is shown, and what of it a key need not change. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.protocol import Segment, SegmentFate
from umbrella_lsp.document import Document, indent_of
from umbrella_lsp.fit.brackets import CLOSERS
from umbrella_lsp.text import Text, normalised

MAX_PREFIX_CHARS = 12_000
MAX_SUFFIX_CHARS = 1_500
MAX_STALE_CHARS = 200
CHARS_PER_TOKEN = 3
"""Fewer than most code has, so that what is taken for shown has been shown."""
MIN_REACH_CHARS = 600
NAMES_WITHIN_LINES = 20
AROUND_LINES = (12, 4)
"""Lines above and below the cursor that other code is compared with."""
MAX_LINES_UP = 1_000
"""How far the headers of enclosing blocks are looked for where only indentation tells them."""

_NAME = re.compile(r"[^\W\d]\w{2,}")
_UNFINISHED = re.compile(r"\w+\Z")
_NO_WORD = re.compile(r"[^\w\n]*")
_NO_HEADER = re.compile(r"[\W\d]*\Z")


@dataclass(frozen=True, slots=True)
class Window:
    """A cursor's place and what is shown around it, with LF line ends."""

    document: Document
    path: str
    """As the model is told it."""
    line: int
    """The cursor's."""
    prefix: str
    """From a line's start, as far as it is sent."""
    suffix: str
    read_from: int
    """Where in the document that part of the prefix begins which the engine is expected to read."""
    first: int
    """The first line of that part."""
    last: int
    """The last line of the suffix."""

    @property
    def before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @property
    def read(self) -> str:
        """The part of the prefix that the engine is expected to read."""
        lines = self.prefix.split("\n")
        return "\n".join(lines[max(0, len(lines) - 1 - (self.line - self.first)) :])

    @property
    def around(self) -> str:
        """Lines near the cursor."""
        above, below = AROUND_LINES
        return "\n".join([*self.prefix.split("\n")[-above:], *self.suffix.split("\n")[:below]])

    def shows(self, first: int, last: int) -> bool:
        """Whether any of the document's lines `first` to `last` is shown."""
        return first <= self.last and last >= self.first


def window_at(document: Document, offset: int, path: str, reach: int) -> Window:
    """The window around `offset`, with `reach` characters before it that the engine is expected to read."""
    content = document.content
    end = min(len(content), offset + MAX_SUFFIX_CHARS)
    read_from = window_start(content, offset, min(reach, MAX_PREFIX_CHARS))
    line, first = content.line_of(offset), content.line_of(read_from)
    return Window(
        document=document,
        path=path,
        line=line,
        prefix=normalised(content.slice(window_start(content, offset), offset)),
        suffix=normalised(content.slice(offset, end)),
        read_from=read_from,
        first=min(line, first + (content.line_start(first) < read_from)),
        last=content.line_of(end),
    )


def window_start(content: Text, offset: int, reach: int = MAX_PREFIX_CHARS) -> int:
    """Where the last `reach` characters before `offset` begin: at a line's start if one is near.

    It stays where it is while a third of `reach` is typed.
    """
    if offset <= reach:
        return 0
    step = reach // 3
    start = -(-(offset - reach) // step) * step
    line = content.line_of(start)
    if content.line_start(line) == start:
        return start
    line_start = content.line_start(line + 1)
    return line_start if line_start <= min(offset, start + step) and line + 1 < content.line_count else start


def known_reach(known: int, segments: Sequence[Segment], fates: Iterable[SegmentFate]) -> int:
    """How many characters of a prefix the engine reads at least, by what it says became of `segments`.

    `known` is what was known of it before, `MAX_PREFIX_CHARS` at first. An engine drops the beginning of a
    long prefix in steps; what it keeps in any case is what counts, so that it does not change with a key.
    """
    for fate in fates:
        if segments[fate.index].kind == "prefix":
            reach = min(MAX_PREFIX_CHARS, max(MIN_REACH_CHARS, fate.tokens * CHARS_PER_TOKEN))
            return max(known, reach) if fate.fate == "kept" else min(known, reach)
    return known


def _same(one: str, other: str) -> bool:
    """Whether two windows show the same text, of which one may reach a little further than the other."""
    length = min(len(one), len(other))
    return one[:length] == other[:length] and (
        len(one) == len(other) or length >= MAX_SUFFIX_CHARS - MAX_STALE_CHARS
    )


def _blank(text: str) -> str:
    """The blanks and line ends that a text begins with."""
    return text[: len(text) - len(text.lstrip())]


def shown_suffix(suffix: str, shown_before: str) -> str:
    """The suffix to show: `shown_before`, the one shown last, if typing on its line can have led to `suffix`.

    That is, closers and the like were typed over, the editor has put closers in front of it, or there are
    more or fewer blank lines. A suffix that stays the same keeps everything after it in the KV cache. But one
    with words that stand left of the cursor by now would have a model say them again.
    """
    no_word = _NO_WORD.match(shown_before, 0, MAX_STALE_CHARS)
    eaten = (shown_before[size:] for size in range(no_word.end() + 1 if no_word else 1))
    if any(_same(suffix, rest) for rest in eaten):
        return shown_before
    blank, shown_blank = _blank(suffix), _blank(shown_before)
    # Code that follows on the cursor's own line is another thing than code below it.
    is_alike = ("\n" in blank) == ("\n" in shown_blank) and len(blank) + len(shown_blank) <= MAX_STALE_CHARS
    if is_alike and _same(suffix[len(blank) :], shown_before[len(shown_blank) :]):
        return shown_before
    closers = len(suffix) - len(suffix.lstrip(CLOSERS))
    if any(_same(suffix[size:], shown_before) for size in range(1, closers + 1)):
        return shown_before
    return suffix


def names_in(text: str) -> tuple[str, ...]:
    """Names in `text`, the last first, each once, without the one that is still being typed at its end."""
    return tuple(dict.fromkeys(reversed(_NAME.findall(_UNFINISHED.sub("", text)))))


def names_near(window: Window) -> tuple[str, ...]:
    """Names in the last lines before the cursor, for a language whose syntax is not known."""
    return names_in("\n".join(window.prefix.split("\n")[-NAMES_WITHIN_LINES:]))


def headers_by_indentation(window: Window) -> list[str]:
    """The lines above the window under which it is indented, outermost first; what merely closes is none."""
    content = window.document.content
    indent = min((indent_of(line) for line in window.read.split("\n") if line.strip()), default=0)
    found: list[str] = []
    for number in range(window.first - 1, max(-1, window.first - 1 - MAX_LINES_UP), -1):
        if not indent:
            break
        line = normalised(content.line(number))
        if not _NO_HEADER.match(line) and indent_of(line) < indent:
            found.append(line.rstrip())
            indent = indent_of(line)
    return found[::-1]
