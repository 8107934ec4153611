"""What the engine is shown of a document and its workspace. Pure: the same arguments, the same context.

Everything here is chosen so that a keystroke changes as little as possible before the cursor: the
window into a long file moves in steps, definitions are looked up by names that are finished, and the
suffix may stay as it was while the cursor eats into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.protocol import Segment
from umbrella_lsp.document import Document, indent_of, normalised
from umbrella_lsp.index import Symbol, SymbolIndex
from umbrella_lsp.syntax import Outline, enclosing

MAX_PREFIX_CHARS = 12_000
PREFIX_STEP_CHARS = 4_000
MAX_SUFFIX_CHARS = 1_500
MAX_STALE_CHARS = 200
MAX_DEFINITIONS = 3
MAX_IMPORT_LINES = 20
NAMES_WITHIN_LINES = 20

CLOSERS = ")]}\"'"
"""What editors close by themselves."""

_NAME = re.compile(r"[^\W\d]\w{2,}")
_UNFINISHED = re.compile(r"\w+\Z")


@dataclass(frozen=True, slots=True)
class CompletionContext:
    """A cursor's surroundings with LF line ends, and the same as ranked segments for the engine."""

    path: str
    language: str
    prefix: str
    """Text before the cursor, from a line's start, as far as the window reaches."""
    suffix: str
    """Text after the cursor, as far as the window reaches."""
    segments: tuple[Segment, ...]

    @property
    def before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @property
    def after(self) -> str:
        """The cursor's line from the cursor on."""
        return self.suffix.split("\n", 1)[0]


def window_start(text: str, offset: int) -> int:
    """Where the shown part of what precedes `offset` begins: at a line's start if one is near.

    It stays where it is while `PREFIX_STEP_CHARS` are typed.
    """
    if offset <= MAX_PREFIX_CHARS:
        return 0
    start = -(-(offset - MAX_PREFIX_CHARS) // PREFIX_STEP_CHARS) * PREFIX_STEP_CHARS
    line_start = text.find("\n", start, min(offset, start + PREFIX_STEP_CHARS)) + 1
    return line_start or start


def _same(one: str, other: str) -> bool:
    """Whether two windows show the same text, of which one may reach a little further than the other."""
    length = min(len(one), len(other))
    return one[:length] == other[:length] and (
        len(one) == len(other) or length >= MAX_SUFFIX_CHARS - MAX_STALE_CHARS
    )


def shown_suffix(suffix: str, shown_before: str) -> str:
    """The suffix to show: `shown_before`, the one shown last, if typing on its line can have led to `suffix`.

    That is, the cursor has eaten a little of it, or the editor has put closers in front of it. A suffix
    that stays the same keeps everything after it in the KV cache.
    """
    line_length = len(shown_before.split("\n", 1)[0])
    eaten = (shown_before[size:] for size in range(min(MAX_STALE_CHARS, line_length) + 1))
    if any(_same(suffix, rest) for rest in eaten):
        return shown_before
    closers = len(suffix) - len(suffix.lstrip(CLOSERS))
    if any(_same(suffix[size:], shown_before) for size in range(1, closers + 1)):
        return shown_before
    return suffix


def _scope(head: Outline, window: str) -> str:
    """What the window's code lies in but does not show: imports, and the headers of enclosing blocks."""
    indents = [indent_of(line) for line in window.split("\n") if line.strip()]
    headers = [" " * d.column + d.header for d in enclosing(head, min(indents, default=0))]
    return "\n".join([*head.imports[-MAX_IMPORT_LINES:], *headers])


def _names_near(prefix: str) -> list[str]:
    """Names in the last lines, nearest first, without the one that is still being typed."""
    lines = prefix.split("\n")[-NAMES_WITHIN_LINES:]
    names = reversed(_NAME.findall(_UNFINISHED.sub("", "\n".join(lines))))
    return list(dict.fromkeys(names))


def _definitions(names: Iterable[str], path: str, index: SymbolIndex) -> list[Symbol]:
    """Definitions in other files of the nearest names, of those that have exactly one."""
    found: list[Symbol] = []
    for name in names:
        others = [symbol for symbol in index.lookup(name) if symbol.path != path]
        if len(others) == 1:
            found.append(others[0])
        if len(found) == MAX_DEFINITIONS:
            break
    return found


def build_context(
    document: Document,
    offset: int,
    index: SymbolIndex,
    *,
    path: str,
    outline: Callable[[str, str], Outline],
    suffix_shown_before: str = "",
) -> CompletionContext:
    """The context of `offset` in `document`, which the model is told is the file `path`.

    `outline` is `syntax.outline`, or a cache of it: in a long file the same text is asked for at
    every key.
    """
    start = window_start(document.text, offset)
    prefix = normalised(document.text[start:offset])
    suffix = normalised(document.text[offset : offset + MAX_SUFFIX_CHARS])
    segments = [
        Segment("prefix", prefix, path, document.language, rank=1.0, stability="volatile"),
        Segment("suffix", shown_suffix(suffix, suffix_shown_before), path, document.language, rank=0.9),
    ]
    if start:
        head = outline(normalised(document.text[:start]), document.language)
        scope = _scope(head, prefix)
        if scope:
            segments.append(Segment("definition", scope, path, document.language, rank=0.8))
    for rank, symbol in enumerate(_definitions(_names_near(prefix), path, index)):
        segments.append(
            Segment(
                "definition",
                symbol.text,
                symbol.path,
                document.language,
                rank=0.5 - 0.1 * rank,
                stability="volatile",
            )
        )
    return CompletionContext(path, document.language, prefix, suffix, tuple(segments))
