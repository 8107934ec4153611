"""How far a suggestion goes: what the engine is told, and what is seen while text arrives. Pure.

Syntax decides where there is any; elsewhere indentation, brackets and quotes do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Literal

from engine.protocol import StopSpec
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.fit.brackets import (
    CLOSERS,
    OPENERS,
    PAIRS,
    Surroundings,
    indent_at,
    long_quote,
    scan,
    surroundings,
)
from umbrella_lsp.syntax.facts import Bracket, InsertedSyntax, Within

Reach = Literal["line", "statement", "block", "following"]
"""line: the rest of the cursor's line.
statement: as many lines as it takes to end the statement that the cursor stands in.
block: what is left of the cursor's block.
following: the rest of the cursor's line or, where that lacks nothing, the lines that follow it.
"""

MIN_DISTINCTIVE = 8
"""Characters of a line by which the place is known where the suffix begins."""
MIN_REPEATED = 3
"""Characters of a line that may not be repeated; shorter ones may."""
MAX_PERIOD = 4
"""Lines that a text which has begun to go round in circles repeats at most."""

_LEAVES = re.compile(r"(?:return|raise|throw|break|continue|pass)\b")
_OPERATOR = re.compile(r"(?:[=*%&|^\\]|(?<!\+)\+|(?<!-)-)\Z|\b(?:and|or|not|in)\Z")
_COMMENT = re.compile(r"\s*(?:#|//|--|/?\*)")
_LABEL = re.compile(r"\s*(?:case\b.*|default\s*):\Z")
_CODE = re.compile(r"\w")
_LACKS_ITS_REST = re.compile(
    r"(?:[=*/%&|^<,.(\[@~?]|(?<!\+)\+|(?<!-)-|=>|->|"
    r"\b(?:return|import|from|in|is|not|and|or|as|new|await|yield|throw|raise|del|let|const|var|case))"
    r"[ \t]*\Z"
)
"""A line that ends so is not complete, whatever the language."""
_BLOCK_OPENERS = (":", *OPENERS)


@dataclass(frozen=True, slots=True)
class Extent:
    """How far one suggestion may go."""

    spec: StopSpec
    reach: Reach
    around: Surroundings
    is_between: bool = False
    """Something stands right of the cursor, so that what the text opens it has to close."""

    @property
    def is_block(self) -> bool:
        """Several lines are wanted; otherwise only the rest of the cursor's line."""
        return self.reach != "line"


def is_only_closers(text: str) -> bool:
    """Whether `text` is nothing but what editors close by themselves and what may follow it."""
    return not text.strip(CLOSERS + ",;: \t")


def last_code_line(text: str) -> str:
    """The last line of `text` that is not blank, or ''."""
    return text.rstrip().rsplit("\n", 1)[-1]


def opens_block(line: str) -> bool:
    """Whether more lines, indented further, are to follow `line`."""
    return line.rstrip().endswith(_BLOCK_OPENERS)


def lines_below(suffix: str) -> list[str]:
    """The lines after the cursor's own, without blank ones and trailing blanks."""
    return [line.rstrip() for line in suffix.split("\n")[1:] if line.strip()]


def is_silent_here(context: CompletionContext, invoked: bool) -> bool:
    """Whether nothing is to be suggested: amid a word, unless somebody asked."""
    return not invoked and bool(_CODE.match(context.suffix)) and bool(_CODE.match(context.prefix[-1:]))


def _within(context: CompletionContext, around: Surroundings) -> Within:
    if context.syntax is not None:
        return context.syntax.within
    if not around.within:
        return "code"
    return "comment" if around.within in ("#", "//", "--", "/*") else "string"


def _goes_on(line: str) -> bool:
    """Whether a line of code ends with an operator, which wants more."""
    return _OPERATOR.search(line) is not None and not _COMMENT.match(line)


def _opens(context: CompletionContext) -> bool:
    above = last_code_line(context.prefix)
    if context.syntax is not None:
        return context.syntax.opens_block or _LABEL.match(above) is not None
    return opens_block(above)


def _in_statement(context: CompletionContext, around: Surroundings) -> bool:
    """Whether the statement at the cursor began on an earlier line, or is to go on on the next one."""
    if around.opened and (around.opened[0].char != "{" or context.language == "python"):
        return around.opened[0].is_above or context.before.rstrip().endswith(tuple(OPENERS))
    if not context.before.strip() and _goes_on(last_code_line(context.prefix)):
        return True
    return context.syntax is not None and context.syntax.in_statement


def _least_indent(context: CompletionContext, around: Surroundings, reach: Reach) -> int | None:
    """The columns of blanks that no line of the text may begin with less of."""
    inner = around.opened[0] if around.opened else None
    own = len(context.before) if not context.before.strip() else 0
    if reach == "statement":
        return inner.indent + (inner.closed_at is not None) if inner else None
    least = 0
    if inner is not None and inner.char == "{":
        # Its closer, where that is missing, is indented like the line that opens it.
        least = inner.indent if inner.closed_at is None else max(inner.indent + 1, own)
    elif reach == "block":
        least = own
    if reach == "following":
        return max(least, around.indent)
    is_deeper = _opens(context) and (inner is None or last_code_line(context.prefix).endswith(":"))
    return max(least, around.indent + 1) if is_deeper else least


def _stops(context: CompletionContext) -> tuple[str, ...]:
    """Where the suffix begins, if that can be told from anything else."""
    below = lines_below(context.suffix)
    is_distinctive = below and len(_CODE.findall(below[0])) >= MIN_DISTINCTIVE
    return (f"\n{below[0]}\n",) if is_distinctive else ()


def extent(context: CompletionContext, max_lines: int, *, invoked: bool = False) -> Extent:
    """The rest of a statement or block where one is open and nothing else is in the way; else of the line.

    Text right of the cursor leaves room for the rest of the line only, but before mere closers a
    statement may take several. Strings and comments end with their line. Who asked (`invoked`) gets twice
    as many lines, at the end of a line those that follow it, and more lines of a string or comment.
    """
    around = surroundings(context.prefix, context.suffix, context.language)
    if context.syntax is not None and bool(around.within) != (context.syntax.within != "code"):
        # The prefix is a window, and may begin within a string.
        around = replace(
            around,
            within=long_quote(context.prefix, context.language) if context.syntax.within == "string" else "",
        )
    before, after = context.before, context.after
    is_between = bool(after.strip())
    line = Extent(StopSpec(max_lines=1), "line", around, is_between)
    within = _within(context, around)
    if max_lines == 1 or not is_only_closers(after):
        return line
    if within != "code" and (is_between or not invoked):
        return line
    lines = (2 if invoked else 1) * max_lines + bool(before.strip())
    if is_between:
        return Extent(StopSpec(max_lines=lines), "statement", around, is_between)
    if within != "code":
        return Extent(StopSpec(max_lines=lines, strings=_stops(context)), "block", around)
    reach: Reach = "line"
    if _in_statement(context, around):
        reach = "statement"
    elif not before.strip() or _opens(context):
        reach = "block"
    elif invoked and not _LACKS_ITS_REST.search(before):
        reach = "following"
    if reach == "line":
        return line
    least = _least_indent(context, around, reach)
    return Extent(StopSpec(_stops(context), lines, least or None), reach, around)


def brackets_of(
    text: str, context: CompletionContext, extent: Extent, inserted: InsertedSyntax | None
) -> tuple[Bracket, ...]:
    """The brackets of `text` as it stands at the cursor."""
    found = scan(text, context.language, extent.around.within)
    if inserted is None:
        return found.brackets
    # A tree of what is broken may take for code what goes on a string.
    begin = 0 if not extent.around.within else len(text) if found.left_at is None else found.left_at
    return tuple(bracket for bracket in inserted.brackets if begin <= bracket.at < len(text))


def first_part(text: str, extent: Extent) -> int:
    """How much of a text that goes on may be answered already, in characters; 0 for nothing yet.

    That is up to the end of its first line of code. Where something stands right of the cursor, the line
    has to close what it opens.
    """
    for start, end in _lines(text):
        if end == len(text):
            return 0
        if extent.reach == "line":
            return end
        if _CODE.search(text, start, end):
            is_open = extent.is_between and _opened(scan(text[:end], "", extent.around.within).brackets)
            return 0 if is_open else end
    return 0


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Where each line begins and ends."""
    ends = [-1, *(match.start() for match in re.finditer("\n", text)), len(text)]
    return ((before + 1, end) for before, end in pairwise(ends))


def _opened(brackets: Iterable[Bracket]) -> int:
    """How many brackets are opened that are not closed."""
    depth = 0
    for bracket in brackets:
        depth = depth + 1 if bracket.char in OPENERS else max(0, depth - 1)
    return depth


def _closes(brackets: Iterable[Bracket]) -> tuple[int, int]:
    """How many brackets are closed that were open before, and how many are left open."""
    closed = 0
    stack: list[str] = []
    for bracket in brackets:
        if bracket.char in OPENERS:
            stack.append(bracket.char)
        elif stack and stack[-1] == PAIRS[bracket.char]:
            stack.pop()
        elif not stack:
            closed += 1
    return closed, len(stack)


def _leaves(text: str, start: int, end: int, inserted: InsertedSyntax | None, is_own: bool) -> bool:
    """Whether nothing of the block can be reached after the line from `start` to `end`, if it `is_own`."""
    if inserted is not None:
        return inserted.leaves_at is not None and inserted.leaves_at <= end
    return is_own and _LEAVES.match(text[start:end].lstrip(" \t")) is not None


def _statement_brackets(context: CompletionContext, extent: Extent) -> tuple[int, int]:
    """Of the brackets open at the cursor, how many must be closed to end its statement, and how many may.

    Of a block, one is enough: its own.
    """
    if extent.reach != "statement":
        return 1, 1
    opened = extent.around.opened
    run = opened if context.language == "python" else tuple(takewhile(lambda one: one.char != "{", opened))
    lacking = sum(1 for _ in takewhile(lambda one: one.closed_at is None, run))
    return lacking, len(run)


def complete_at(
    text: str, context: CompletionContext, extent: Extent, inserted: InsertedSyntax | None
) -> int | None:
    """The end of the first line of `text` with which all is there that is wanted; None if there is none.

    The last line ends with the text.
    """
    if extent.reach == "line":
        return text.find("\n") if "\n" in text else len(text)
    brackets = brackets_of(text, context, extent, inserted)
    opened = extent.around.opened
    lacks_closer = bool(opened) and opened[0].closed_at is None
    lacking, run = _statement_brackets(context, extent)
    wants_line = extent.is_between or (extent.reach == "following" and bool(text.split("\n", 1)[0].strip()))
    first: int | None = None
    for start, end in _lines(text):
        line = text[start:end].rstrip()
        if not line.strip() and not extent.is_between:
            continue
        column = len(indent_at(line, 0)) + (0 if start else len(context.before))
        first = column if first is None else first
        closed, left_open = _closes(b for b in brackets if b.at < end)
        if left_open:
            continue
        if wants_line:
            return end
        if closed and closed >= lacking and (closed >= run or not line.endswith(",")):
            return end
        if extent.reach == "statement":
            # Within brackets that nothing closes yet, syntax would have to guess where statements end.
            if (
                not run
                and not _goes_on(line)
                and (inserted is None or any(0 < at <= end for at in inserted.ends))
            ):
                return end
        elif not lacks_closer and _leaves(text, start, end, inserted, column == first):
            return end
    return None


def _same_start(lines: Sequence[str], others: Sequence[str]) -> bool:
    """Whether all of `lines` are what `others` begin with."""
    return bool(lines) and list(lines) == list(others[: len(lines)])


def _comes_thrice(lines: Sequence[str], period: int) -> bool:
    """Whether so many of `lines` come three times in a row, first of all."""
    unit = lines[:period]
    is_long = any(len(line.strip()) >= MIN_REPEATED for line in unit)
    return is_long and unit == lines[period : 2 * period] == lines[2 * period : 3 * period]


def repeated_from(lines: Sequence[str], below: Sequence[str]) -> int | None:
    """The first of `lines` that repeats: what stands `below`, or what came before it, over and over.

    Both without trailing blanks, `below` without blank lines. Lines without a word are brackets, of which
    another one may be needed, unless nothing but what stands below follows.
    """
    for index, line in enumerate(lines):
        is_code = len(line.strip()) >= MIN_REPEATED and _CODE.search(line) is not None
        # One that comes twice may be meant, but more often there is no end to it, and it is not shown to go.
        if is_code and (line in below[:1] or line in lines[max(index - 1, 0) : index]):
            return index
        if _same_start([other for other in lines[index:] if other], below):
            return index
        periods = range(1, MAX_PERIOD + 1)
        period = next((period for period in periods if _comes_thrice(lines[index:], period)), 0)
        if period:
            return index + period
    return None


def is_done(context: CompletionContext, extent: Extent, text: str, inserted: InsertedSyntax | None) -> bool:
    """Whether `text`, as generated so far, needs nothing more. To be asked when a line has been completed.

    That is so when what was wanted is complete, and when it has begun to repeat what stands below the
    cursor, or itself.
    """
    if "\n" not in text:
        return False
    whole = text[: text.rfind("\n")]
    if complete_at(whole, context, extent, inserted) is not None:
        return True
    lines = [line.rstrip() for line in (context.before + whole).split("\n")]
    return repeated_from(lines, lines_below(context.suffix)) is not None
