"""Makes generated text fit the place it goes to. Pure, and without opinions on what is good code.

In and out: text with LF line ends. What was generated is only ever shortened.
"""

from __future__ import annotations

from umbrella_lsp.context import CLOSERS, CompletionContext
from umbrella_lsp.document import indent_of
from umbrella_lsp.stop import Extent, last_code_line, lines_below, opens_block

_PAIRS = {")": "(", "]": "[", "}": "{"}
_FENCE = "```"
_MIN_REPEATED = 3
"""Characters of a line that may not be repeated; shorter ones, as closing brackets, may."""


def without_fences(text: str) -> str:
    """Code out of a Markdown fence, in which chat models like to answer."""
    if text.lstrip().startswith(_FENCE):
        text = text.lstrip().partition("\n")[2]
    return text.split("\n" + _FENCE, 1)[0]


def without_doubled_indent(text: str, context: CompletionContext) -> str:
    """Drop indentation that the cursor's line already has."""
    before = context.before
    if not before or before.strip() or not text.startswith((" ", "\t")):
        return text
    above = last_code_line(context.prefix)
    is_too_shallow = opens_block(above) and len(before) <= indent_of(above)
    return text if is_too_shallow else text.lstrip(" \t")


def _unmatched_closer(text: str, closer: str) -> int:
    """Where `text` closes what it has not opened with `closer`, or -1. Quotes are matched in pairs."""
    if closer not in _PAIRS:
        return text.rfind(closer) if text.count(closer) % 2 else -1
    depth = 0
    for index, char in enumerate(text):
        depth += (char == _PAIRS[closer]) - (char == closer)
        if depth < 0:
            return index
    return -1


def without_suffix_overlap(text: str, after: str) -> str:
    """Drop what stands to the right of the cursor already: closers, or the rest of the line."""
    rest = after.strip()
    if not rest:
        return text
    head, line_end, tail = text.partition("\n")
    if rest[0] in CLOSERS:
        at = _unmatched_closer(head, rest[0])
        return head[:at] if at >= 0 else text
    if head.rstrip().endswith(rest):
        return head.rstrip()[: -len(rest)]
    return head + line_end + tail


def without_repeated_lines(text: str, context: CompletionContext) -> str:
    """Stop before lines that stand below the cursor already, and before a line given twice in a row."""
    below = lines_below(context.suffix)
    lines = text.split("\n")
    whole = [line.rstrip() for line in (context.before + text).split("\n")]
    for index, line in enumerate(whole):
        rest = [other for other in whole[index:] if other]
        repeats = bool(rest) and rest == below[: len(rest)]
        if len(line.strip()) >= _MIN_REPEATED:
            repeats |= below[:1] == [line] or (index > 0 and line == whole[index - 1])
        if repeats:
            return "\n".join(lines[:index])
    return text


def fitted(text: str, context: CompletionContext, extent: Extent) -> str:
    """`text` as it may be inserted at the cursor, or '' if nothing of it is worth showing."""
    text = without_fences(text)
    if not extent.is_block or extent.completes_line(text):
        text = text.split("\n", 1)[0]
    text = without_doubled_indent(text, context)
    text = without_suffix_overlap(text, context.after)
    text = without_repeated_lines(text, context)
    text = text.rstrip()
    return text if text.strip() else ""
