"""Makes generated text fit the place it goes to. Pure, and without opinions on what is good code.

In and out: text with LF line ends. What was generated is only ever shortened, and its indentation brought
to the document's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from umbrella_lsp.context import CompletionContext
from umbrella_lsp.fit.brackets import CLOSERS, OPENERS, PAIRS, QUOTES, indent_at, scan, unmatched
from umbrella_lsp.fit.chatter import PROSE, code_span
from umbrella_lsp.fit.indentation import converted, unit_of
from umbrella_lsp.fit.stop import (
    MIN_REPEATED,
    Extent,
    brackets_of,
    complete_at,
    last_code_line,
    lines_below,
    opens_block,
    repeated_from,
)
from umbrella_lsp.syntax.facts import Bracket, InsertedSyntax

MIN_ECHO = 4
"""Characters of the cursor's line that a text may begin by repeating, before that is taken for an echo."""

_RUN = re.compile(r"((?=\S*[^\W\d])\S.{3,39}?)\1{3,}")
_CALL = re.compile(r"[\w.]+[(\[{]\Z")
_WORD = re.compile(r"\w+")
_CODE = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Text for the cursor; '' if nothing is worth showing."""

    text: str
    replaces: int = 0
    """Characters right of the cursor, on its line, that the text takes the place of."""


def _without_front(text: str, context: CompletionContext) -> int:
    """How much `text` begins with of what stands left of the cursor already."""
    echo = context.before.lstrip()
    at = 0
    if len(echo) >= MIN_ECHO and not _CALL.fullmatch(echo) and text.lstrip().startswith(echo):
        at = text.index(echo) + len(echo)
    typed = re.search(r"\w+\Z", context.before)
    word = _WORD.match(text, at)
    if at == 0 and typed and word and len(word.group()) > len(typed.group()):
        start, whole = typed.group(), word.group()
        is_known = re.compile(rf"\b{re.escape(start + whole)}\b").search
        is_longer = len(start) > 1 or re.search(rf"\b{whole}\b", context.prefix + context.suffix)
        if whole.startswith(start) and is_longer and not is_known(context.prefix + context.suffix):
            return len(start)
    return at


def _doubled_indent(text: str, context: CompletionContext) -> int:
    """How much of the blanks that `text` begins with the cursor's line has already."""
    before = context.before
    lead = len(indent_at(text, 0))
    if not before or before.strip() or lead == len(text):
        return 0
    above = last_code_line(context.prefix)
    lacking = len(indent_at(above, 0)) + len(unit_of(context.prefix + context.suffix) or "    ") - len(before)
    return max(0, lead - max(0, lacking)) if opens_block(above) else lead


def _strange_closer(before: str, text: str, after: str) -> int | None:
    """Where `text` closes what `after` closes already on the line of the three, by mere characters."""
    if len(_strange_closers(before + text + after)) <= len(_strange_closers(before + after)):
        return None
    return next((at for at in _strange_closers(text) if text[at] in after), None)


def _strange_closers(line: str) -> list[int]:
    """Where `line` has closers that nothing of their kind opens."""
    found: list[int] = []
    opened = Counter[str]()
    for at, char in enumerate(line):
        if char in OPENERS:
            opened[char] += 1
        elif char in PAIRS and opened[PAIRS[char]]:
            opened[PAIRS[char]] -= 1
        elif char in PAIRS:
            found.append(at)
    return found


def _without_closers(
    text: str, brackets: Sequence[Bracket], context: CompletionContext, extent: Extent
) -> Fitted:
    """`text` without closers of what is open before the cursor, as far as these are there already.

    Where it goes on behind closers that are all there is right of the cursor, it takes their place.
    """
    after, around = context.after, extent.around
    left_at = scan(text, context.language, around.within).left_at if around.within else None
    if around.within:
        # In strings and comments brackets come in pairs just as often, if to no syntax.
        inside = after[: scan(after, context.language, around.within).left_at]
        strange = _strange_closer(context.before, text[:left_at], inside)
        if strange is not None:
            return Fitted(text[:strange])
    taken: list[int] = []
    reached = 0
    if (
        left_at is not None
        and around.within in tuple(QUOTES)
        and after.startswith(around.within)
        and not _ends_in(text, context, extent)
    ):
        taken, reached = [left_at - 1], 1
    stack: list[str] = []
    closed = 0
    for bracket in brackets:
        if bracket.char in OPENERS:
            stack.append(bracket.char)
        elif stack:
            if stack.pop() != PAIRS[bracket.char]:
                return Fitted(text[: bracket.at])
        else:
            one = around.opened[closed] if closed < len(around.opened) else None
            closed += 1
            if one is None or one.char != PAIRS[bracket.char]:
                return Fitted(text[: bracket.at])
            if one.closed_at is None:
                continue
            if one.closed_at >= len(after) or after[reached : one.closed_at].strip(CLOSERS + " "):
                text = text[: bracket.at]
                break
            taken.append(bracket.at)
            reached = one.closed_at + 1
    if not taken:
        return Fitted(text)
    # Before anything but closers, what a text has behind them is mostly a guess at what stands there.
    is_there = after[reached:].strip() or after.strip().startswith(text[taken[0] :].strip())
    return Fitted(text[: taken[0]]) if is_there else Fitted(text, reached)


def _ends_in(text: str, context: CompletionContext, extent: Extent) -> bool:
    """Whether `text` ends within a string like the one that it begins in, so that its closer is needed."""
    return scan(text, context.language, extent.around.within).within == extent.around.within


def _without_words(text: str, rest: str) -> str:
    """`text` without what stands to its right already, if that has a word: the longest beginning of `rest`.

    What is left may lack a bracket or a quote that only the part that goes had, and is to be looked at.
    """
    kept, rest = text.rstrip(), rest.strip()
    for size in range(min(len(rest), len(kept)), 0, -1):
        is_long = size >= MIN_REPEATED or size == len(rest)
        if is_long and kept.endswith(rest[:size]) and _CODE.search(rest[:size]):
            return kept[:-size]
    return text


def _without_overlap(text: str, before: str, rest: str, language: str, within: str) -> str:
    """`text`, which begins `within`, without the signs at its end that stand to its right already.

    A quote is one too many if the line, from `before` to `rest`, has an odd number of them, or it comes with
    all the rest.
    """
    kept, rest = text.rstrip(), rest.strip()
    line = (before + kept).rsplit("\n", 1)[-1] + rest

    def left_open(part: str) -> int:
        return len(unmatched(scan(part, language, within).brackets)[1])

    for size in range(min(len(rest), len(kept)), 0, -1):
        shared, left = rest[:size], kept[:-size]
        is_split = _joins(left, shared) or _joins(shared, rest[size:])
        if is_split or not kept.endswith(shared):
            continue
        odd = [quote for quote in QUOTES if shared.count(quote) % 2]
        is_needed = any(line.count(quote) % 2 == 0 for quote in odd) and not 1 < size == len(rest)
        if not is_needed and left_open(left) <= left_open(kept):
            return left
    return text


def _joins(left: str, right: str) -> bool:
    """Whether a word goes on from `left` to `right`."""
    return bool(_WORD.match(left[-1:]) and _WORD.match(right))


def _balanced(text: str, brackets: Sequence[Bracket], rest: str, extent: Extent) -> str:
    """`text` up to the first bracket that it opens and neither it nor `rest`, right of it, closes."""
    openers = unmatched(b for b in brackets if b.at < len(text))[1]
    closing = len(unmatched(scan(rest, "").brackets)[0])
    needed = sum(one.closed_at is not None and one.closed_at < len(rest) for one in extent.around.opened)
    spare = max(0, closing - needed)
    if not rest.strip() or len(openers) <= spare:
        return text
    kept = text[: openers[spare].at].rstrip()
    return kept if kept[-1:] in CLOSERS or _WORD.match(kept[-1:]) else ""


def _joined(text: str, context: CompletionContext, extent: Extent, inserted: InsertedSyntax | None) -> Fitted:
    """`text` and what stands right of the cursor, neither saying what the other one says."""
    if not extent.is_between:
        brackets = brackets_of(text, context, extent, inserted)
        return _without_closers(text, brackets, context, extent)
    language, within = context.language, extent.around.within
    while True:
        text = _without_words(text, context.after)
        brackets = brackets_of(text, context, extent, inserted)
        fit = _without_closers(text, brackets, context, extent)
        rest = context.after[fit.replaces :]
        kept = _without_overlap(fit.text, context.before, rest, language, within)
        kept = _balanced(kept, brackets, rest, extent)
        if kept == text:
            return fit
        text = kept


def _without_repeats(text: str, context: CompletionContext, rest: str) -> str:
    """`text` up to where it repeats the lines below, or itself. `rest` stands right of it."""
    run = _RUN.search(text)
    if run:
        whole_lines = text[: max(text.rfind("\n", 0, run.start()), 0)]
        is_split = _joins(text[: run.end(1)], text[run.end(1) :])
        text = text[: run.end(1)]
        text = (re.sub(r"\w+\Z", "", text) if is_split else text).rstrip(" \t,([{")
        text = whole_lines if whole_lines.strip() else text
    whole = [line.rstrip() for line in (context.before + text + rest).split("\n")]
    at = repeated_from(whole, lines_below(context.suffix))
    return text if at is None else "\n".join(text.split("\n")[:at])


def _without_blanks(text: str, rest: str) -> str:
    """`text` without blanks at line ends, but for those that part it from a word right of it."""
    lines = [line.rstrip() for line in text.split("\n")]
    if _WORD.match(rest) and lines[-1]:
        lines[-1] = text.rsplit("\n", 1)[-1]
        return "\n".join(lines)
    return "\n".join(lines).rstrip()


def _is_echo(text: str, context: CompletionContext) -> bool:
    """Whether `text` is no more than what the engine was shown right of the cursor, and is left of it by now.

    Brackets and quotes are not asked about: another one may be needed.
    """
    shown = next((segment.text for segment in context.segments if segment.kind == "suffix"), "")
    is_passed = shown.split("\n", 1)[0] != context.after
    return is_passed and shown.startswith(text.strip()) and text.strip(CLOSERS + " \t\n") != ""


def _unit(context: CompletionContext, extent: Extent) -> str:
    """What generated lines are to be indented by; '' if that is theirs to say, as in prose.

    A string that is not closed yet is code to syntax.
    """
    if context.language in PROSE or extent.around.within or extent.around.seems_within:
        return ""
    return unit_of(context.prefix + context.suffix)


def _cut(
    text: str, context: CompletionContext, extent: Extent, inserted: InsertedSyntax | None
) -> tuple[Fitted, InsertedSyntax | None]:
    """What fits of `text`, but for its indentation, and what syntax says of that."""
    document = context.prefix + context.suffix
    start, end = code_span(text, language=context.language, within=extent.around.within, document=document)
    front = start
    while front < end and (more := _without_front(text[front:end], context)):
        front += more
    front += _doubled_indent(text[front:end], context)
    # A tree of prose and fences tells nothing of the code between them.
    inserted = _moved(inserted, front) if (start, end) == (0, len(text)) else None
    text = text[front:end]
    complete = complete_at(text, context, extent, inserted)
    if complete is not None:
        text = text[:complete]
    return _joined(text, context, extent, inserted), inserted


def fitted(text: str, context: CompletionContext, extent: Extent, inserted: InsertedSyntax | None) -> Fitted:
    """`text` as it may be inserted at the cursor, or no text if nothing of it is worth showing.

    `inserted` is what syntax says of all of `text` there. To fit what fits changes nothing as long as syntax
    says the same of it.
    """
    if _is_echo(text, context):
        return Fitted("")
    unit = _unit(context, extent)
    above = last_code_line(context.prefix)
    while True:
        fit, inserted = _cut(text, context, extent, inserted)
        rest = context.after[fit.replaces :]
        left = converted(_without_repeats(fit.text, context, rest), context.before, above, unit)
        left = _without_blanks(_without_repeats(left, context, rest), rest)
        if left == text or not left.strip():
            return Fitted(left, fit.replaces) if left.strip() else Fitted("")
        if not fit.text.startswith(left):
            inserted = None  # It counts characters as they were.
        text = left


def _moved(inserted: InsertedSyntax | None, by: int) -> InsertedSyntax | None:
    """`inserted` of a text that has lost `by` characters in front."""
    if inserted is None or not by:
        return inserted
    return replace(
        inserted,
        brackets=tuple(Bracket(b.at - by, b.char) for b in inserted.brackets if b.at >= by),
        ends=tuple(at - by for at in inserted.ends if at > by),
        leaves_at=None if inserted.leaves_at is None else inserted.leaves_at - by,
    )
