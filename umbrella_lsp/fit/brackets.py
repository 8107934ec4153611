"""Brackets and quotes: what a cursor stands in, and what of that the text below it closes. Pure.

Knows how languages quote and comment, and nothing else of them: it is for text of which there is no tree.
Sources have LF line ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from umbrella_lsp.syntax.facts import Bracket

PAIRS = {")": "(", "]": "[", "}": "{"}
OPENERS = "([{"
BRACKETS = OPENERS + ")]}"
CLOSERS = ")]}\"'`"
"""What editors close by themselves."""
QUOTES = "\"'`"

_HASH = frozenset(
    [
        "python",
        "shellscript",
        "yaml",
        "toml",
        "ini",
        "properties",
        "ruby",
        "perl",
        "r",
        "makefile",
        "dockerfile",
        "elixir",
        "julia",
    ]
)
_SLASHES = frozenset(
    [
        "c",
        "cpp",
        "csharp",
        "css",
        "dart",
        "go",
        "java",
        "javascript",
        "javascriptreact",
        "kotlin",
        "less",
        "php",
        "rust",
        "scala",
        "scss",
        "swift",
        "typescript",
        "typescriptreact",
    ]
)
_DASHES = frozenset(["lua", "sql", "haskell", "ada", "elm"])
_BACKTICKS = frozenset(["go", "javascript", "javascriptreact", "typescript", "typescriptreact"])
_BLANKS = re.compile(r"[ \t]*")
_DELIMITERS = ('"""', "'''", "/*", "//", "--", '"', "'", "`", "#")


def _long_quotes(language: str) -> tuple[str, ...]:
    """What begins strings that may go on over many lines, and ends them."""
    if language == "python":
        return ('"""', "'''")
    return ("`",) if language in _BACKTICKS else ()


def long_quote(prefix: str, language: str) -> str:
    """What the string begins with that the cursor behind `prefix` stands in, if `scan` knows of none."""
    return max((quote for quote in _long_quotes(language) if quote in prefix), key=prefix.rfind, default='"')


@cache
def _tokens(language: str) -> re.Pattern[str]:
    """Strings and comments, whole or up to the end of the text, and brackets outside of them."""
    kinds: list[str] = []
    if language in _HASH:
        kinds.append(r"#[^\n]*")
    if language in _SLASHES:
        kinds += [r"//[^\n]*", r"/\*.*?(?:\*/|\Z)"]
    if language in _DASHES:
        kinds.append(r"--[^\n]*")
    kinds += [rf"{quote}(?:\\.|[^\\])*?(?:{quote}|\Z)" for quote in _long_quotes(language)]
    kinds.append(r'"(?:\\.|[^"\\\n])*(?:"|(?=\n)|\Z)')
    if language == "rust":  # What is not closed at once is a lifetime.
        kinds.append(r"'(?:\\[^\n']+|[^'\\\n])'")
    elif language in _HASH | _BACKTICKS:
        kinds.append(r"'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)")
    else:  # What is not closed on its line is an apostrophe.
        kinds.append(r"'(?:\\.|[^'\\\n])*'")
    return re.compile("|".join([*kinds, r"[()\[\]{}]"]), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found in a text."""

    brackets: tuple[Bracket, ...]
    """Those outside of strings and comments."""
    within: str = ""
    """What begins the string or comment that the text ends in, or '' for none."""
    left_at: int | None = None
    """Where the string or comment ends that the text begins in, if it is closed rather than broken off."""


def _is_closed(token: str, delimiter: str) -> bool:
    closer = {"/*": "*/"}.get(delimiter, delimiter)
    body = token[len(delimiter) :]
    escapes = len(body) - len(closer) - len(body[: -len(closer)].rstrip("\\"))
    return body.endswith(closer) and (escapes % 2 == 0 or closer == "*/")


def scan(text: str, language: str, within: str = "") -> Scan:
    """Find the brackets of `text`, which begins in the string or comment that `within` begins, if any."""
    source, shift = within + text, len(within)
    found: list[Bracket] = []
    ends_within, left_at = "", None
    for match in _tokens(language).finditer(source):
        token = match.group()
        if token[0] in BRACKETS:
            found.append(Bracket(match.start() - shift, token))
            continue
        is_first, is_last = within and not match.start(), match.end() == len(source)
        if not (is_first or is_last):
            continue
        delimiter = next(known for known in _DELIMITERS if token.startswith(known))
        is_line_comment = delimiter in ("#", "//", "--")
        is_open = is_line_comment or not _is_closed(token, delimiter)
        ends_within = delimiter if is_open and is_last else ""
        if is_first and not ends_within and (is_line_comment or not is_open):
            left_at = match.end() - shift
    return Scan(tuple(found), ends_within, left_at)


def unmatched(brackets: Iterable[Bracket]) -> tuple[list[Bracket], list[Bracket]]:
    """The closers that nothing opens, and the openers that nothing closes, in order.

    What is opened and never closed within closed brackets is forgotten, and so are strange closers there.
    """
    closers: list[Bracket] = []
    openers: list[Bracket] = []
    for bracket in brackets:
        if bracket.char in OPENERS:
            openers.append(bracket)
            continue
        wanted = PAIRS[bracket.char]
        if openers and openers[-1].char == wanted:
            openers.pop()
            continue
        at = next((i for i in reversed(range(len(openers))) if openers[i].char == wanted), None)
        if at is not None:
            del openers[at:]
        elif not openers:
            closers.append(bracket)
    return closers, openers


def indent_at(text: str, offset: int) -> str:
    """The blanks that the line of `offset` begins with."""
    blanks = _BLANKS.match(text, text.rfind("\n", 0, offset) + 1)
    return blanks.group() if blanks else ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A bracket that is open at the cursor."""

    char: str
    indent: int
    """Columns of blanks that its line begins with."""
    is_above: bool
    """It stands on an earlier line."""
    closed_at: int | None
    """Offset of its closer in the suffix, its length if that lies further down; None if it lacks one."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a cursor stands in."""

    within: str = ""
    """What begins the string or comment there, or ''."""
    opened: tuple[Opened, ...] = ()
    """Innermost first."""
    indent: int = 0
    """Columns of blanks before the statement that the last line of code is of."""
    seems_within: str = ""
    """What `within` is by the text before the cursor alone, whatever else is known of it."""


def _statement_indent(prefix: str, brackets: Iterable[Bracket]) -> int:
    """Of the line on which the statement begins that the last line of code ends or goes on with."""
    start = prefix.rfind("\n", 0, len(prefix.rstrip())) + 1
    opened: list[Bracket] = []
    for bracket in brackets:
        if bracket.char in OPENERS:
            opened.append(bracket)
        elif opened and opened[-1].char == PAIRS[bracket.char]:
            opener = opened.pop()
            if bracket.at >= start:
                start = min(start, prefix.rfind("\n", 0, opener.at) + 1)
    return len(indent_at(prefix, start))


def _closers_of(stack: list[Opened], prefix_closers: Iterable[Bracket], suffix: str) -> dict[int, int]:
    """Where in the suffix which of `stack`, innermost first, is closed.

    A closer that begins its line belongs to what stands on a line indented like it, so that of nested
    blocks it is known which one lacks its closer.
    """
    found: dict[int, int] = {}
    first = 0
    for closer in prefix_closers:
        fits = [i for i in range(first, len(stack)) if stack[i].char == PAIRS[closer.char]]
        if not fits:
            break
        line = suffix.rfind("\n", 0, closer.at)
        indent = suffix[line + 1 : closer.at]
        alike = (
            [i for i in fits if stack[i].indent == len(indent)] if line >= 0 and not indent.strip() else []
        )
        at = (alike or fits)[0]
        found[at] = closer.at
        first = at + 1
    return found


def _quote_around(prefix: str, suffix: str) -> str:
    """The quote that closes right of the cursor what it has opened on the same line, or ''."""
    quote = suffix[:1]
    before, after = prefix[prefix.rfind("\n") + 1 :], suffix.split("\n", 1)[0]
    is_around = quote in QUOTES and before.count(quote) % 2 and after.count(quote) % 2
    return quote if quote and is_around else ""


def surroundings(prefix: str, suffix: str, language: str) -> Surroundings:
    """What the cursor between `prefix` and `suffix` stands in.

    Where no line of the suffix leaves an opened block, it is taken to be closed further down, for a
    suffix is only a window.
    """
    above = scan(prefix, language)
    _, openers = unmatched(above.brackets)
    line = prefix.rfind("\n") + 1
    stack = [Opened(b.char, len(indent_at(prefix, b.at)), b.at < line, None) for b in reversed(openers)]
    within = above.within or _quote_around(prefix, suffix)
    below = scan(suffix, language, within)
    if within in ('"', "'") and below.left_at is None:  # Nothing but the cursor is yet to end the string.
        below = scan(suffix, language)
    closers, _ = unmatched(below.brackets)
    closed = _closers_of(stack, closers, suffix)
    indents = [len(row) - len(row.lstrip(" \t")) for row in suffix.split("\n")[1:] if row.strip()]
    least = min(indents, default=-1)
    opened = tuple(
        Opened(one.char, one.indent, one.is_above, closed.get(i, len(suffix) if least > one.indent else None))
        for i, one in enumerate(stack)
    )
    return Surroundings(within, opened, _statement_indent(prefix, above.brackets), above.within)
