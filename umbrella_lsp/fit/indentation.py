"""The unit that a document is indented by, and generated text brought to it. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from umbrella_lsp.fit.brackets import indent_at

_OPENS = re.compile(r"[:{(\[]\s*\Z")
_SPACES = (2, 3, 4, 8)
_USUAL = 4


def unit_of(text: str) -> str:
    """What `text` is indented by, a tab or some spaces; '' if no line tells."""
    lines = [line for line in text.split("\n") if line.strip()]
    tabs = sum(line.startswith("\t") for line in lines)
    spaces = sum(line.startswith(" ") for line in lines)
    if tabs > spaces:
        return "\t"
    # Where lines end with what opens a block, those that do not are of tables, docstrings and the like.
    opened = (pair for pair in pairwise(lines) if _OPENS.search(pair[0]))
    return " " * (_step(opened) or _step(pairwise(lines)))


def _step(pairs: Iterable[tuple[str, str]]) -> int:
    """The number of spaces by which lines are most often deeper than the line before; 0 for none."""
    steps = Counter(len(indent_at(deeper, 0)) - len(indent_at(line, 0)) for line, deeper in pairs)
    known = {size: count for size, count in steps.items() if size in _SPACES}
    return max(known, key=lambda size: (known[size], -size), default=0)


def _own_unit(lines: list[str]) -> int:
    """The spaces by which the blocks of `lines` are deeper than what opens them; 0 if that differs."""
    code = [(len(indent_at(line, 0)), line) for line in lines if line.strip()]
    steps = {deeper - indent for (indent, line), (deeper, _) in pairwise(code) if _OPENS.search(line)}
    step = steps.pop() if len(steps) == 1 else 0
    return step if step in _SPACES else 0


def converted(text: str, before: str, above: str, unit: str) -> str:
    """`text` with the lines after its first indented by `unit`, if all of them are by another one.

    `before` is the cursor's line in front of it, and `above` the last line of code up to there. Columns to
    which the text returns stay what they are.
    """
    first, *rest = text.split("\n")
    indents = [indent_at(line, 0) for line in rest if line.strip()]
    if not unit or not any(indents):
        return text
    opener = before + first if (before + first).strip() else above
    outer = indent_at(opener, 0)
    if unit != "\t" and all(set(indent) <= {"\t"} for indent in indents):
        return "\n".join([first, *(_expanded(line, unit) for line in rest)])
    if any("\t" in indent for indent in indents):
        return text
    if unit == "\t":
        # What is spaces here counts from the document's start, where the opener's tabs are levels, too.
        levels = outer.count("\t") + bool(_OPENS.search(opener))
        size, odd = divmod(len(indents[0]), max(levels, 1))
        own = size if size in _SPACES and not odd else _USUAL
        return "\n".join([first, *(_tabbed(line, own) for line in rest)])
    own = _own_unit([opener, *rest])
    if own in (0, len(unit)):
        return text
    return "\n".join([first, *(_respaced(line, len(outer), own, len(unit)) for line in rest)])


def _expanded(line: str, unit: str) -> str:
    tabs = indent_at(line, 0)
    return unit * len(tabs) + line[len(tabs) :]


def _tabbed(line: str, own: int) -> str:
    levels, left = divmod(len(indent_at(line, 0)), own)
    return "\t" * levels + " " * left + line.lstrip(" ")


def _respaced(line: str, outer: int, own: int, unit: int) -> str:
    """`line` with what it is indented by beyond column `outer` counted in `unit` instead of `own` spaces."""
    levels, left = divmod(len(indent_at(line, 0)) - outer, own)
    if levels < 1:
        return line
    return " " * (outer + levels * unit + left) + line.lstrip(" ")
