"""Where generated text ends, and what of it may be sent already. Owns stop rules over text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.draft.base import Outlook, anything
from engine.healing import Debt
from engine.protocol import StopReason, StopSpec


@dataclass(frozen=True, slots=True)
class Cut:
    """The text ends before offset `at`."""

    at: int
    reason: StopReason
    string: str = ""
    """The stop string found, where one was."""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def find_cut(text: str, spec: StopSpec) -> Cut | None:
    """The earliest place where `spec` ends `text`, or None."""
    cuts = [Cut(at, StopReason.STRING, s) for s in spec.strings if (at := text.find(s)) >= 0]
    by_lines = spec.max_lines is not None or spec.min_indent
    line_end, lines = text.find("\n") if by_lines else -1, 1
    while line_end >= 0:
        if lines == spec.max_lines:
            cuts.append(Cut(line_end, StopReason.LINES))
            break
        following = text[line_end + 1 :].split("\n", 1)[0]
        if spec.min_indent and following.strip() and _indent(following) < spec.min_indent:
            cuts.append(Cut(len(text[:line_end].rstrip()), StopReason.INDENT))
            break
        line_end, lines = text.find("\n", line_end + 1), lines + 1
    return min(cuts, key=lambda cut: cut.at, default=None)


def settled(text: str, spec: StopSpec) -> int:
    """How much of `text` no later token can take back: what might begin a stop is held."""
    length = len(text)
    for string in spec.strings:
        start = text.find(string[0], max(0, len(text) - len(string) + 1))
        while start >= 0 and not string.startswith(text[start:]):
            start = text.find(string[0], start + 1)
        if start >= 0:
            length = min(length, start)
    if spec.min_indent:
        length = min(length, len(text.rstrip()))
    return length


class TextStream:
    """Turns tokens into text until a stop rule ends it. The decoder's `StopRule` and `Constraint`.

    Text handed out by `take` is never withdrawn: nothing past the end is ever handed out.
    """

    def __init__(
        self,
        decode: Callable[[int], str],
        end_tokens: Iterable[int],
        spec: StopSpec,
        debt: Debt | None = None,
        breaks: frozenset[int] = frozenset(),
    ) -> None:
        """`breaks` are the tokens whose text holds a line break."""
        self._decode = decode
        self._end_tokens = frozenset(end_tokens)
        self._spec = spec
        self._debt = debt
        self._breaks = breaks
        self.offsets: list[int] = []
        """Where each token so far begins in the text."""
        self._text = ""
        self._taken = 0
        self._cut: Cut | None = None

    def push(self, token: int) -> StopReason | None:
        """Take in one generated token; the reason to stop if it is the last."""
        self.offsets.append(len(self._text))
        if token in self._end_tokens:
            return StopReason.END
        written = self._decode(token)
        self._text += self._debt.pay(written) if self._debt else written
        self._cut = find_cut(self._text, self._spec)
        return self._cut.reason if self._cut else None

    def allowed(self) -> tuple[int, ...] | None:
        """The ids that may come next; None if any may."""
        return self._debt.allowed() if self._debt else None

    def outlook(self) -> Outlook:
        """What is known of the text to come. Line breaks within a token count as one."""
        lines = self._spec.max_lines
        left = None if lines is None else lines - self._text.count("\n")
        return Outlook(
            self._end_tokens, self._breaks, left, self._debt.allowed_behind() if self._debt else anything
        )

    @property
    def rewritten(self) -> int:
        """Tokens so far that only wrote the word at the cursor again."""
        return self._debt.rewritten if self._debt else 0

    @property
    def stop_string(self) -> str:
        """The stop string that ended the text, or ''."""
        return self._cut.string if self._cut else ""

    def take(self) -> str:
        """Text that has become certain since the last call."""
        end = self._cut.at if self._cut else settled(self._text, self._spec)
        return self._take_until(end)

    def finish(self) -> str:
        """What was still held back, once no more tokens come."""
        return self._take_until(self._cut.at if self._cut else len(self._text))

    def _take_until(self, end: int) -> str:
        piece = self._text[self._taken : end]
        self._taken = max(self._taken, end)
        return piece
