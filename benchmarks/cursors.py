"""Where suggestions are asked for, and what stood there: cursors in files, or prompts of the user's own.

Knows nothing of models, nor of how an answer is judged.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from engine.protocol import StopSpec
from engine.schema import SchemaError, read
from engine.text import find_cut
from engine.training.corpus import SourceFile

T = TypeVar("T")

PREFIX_LINES, SUFFIX_LINES = 60, 15
"""Lines shown before and after the cursor's own."""
MISSES = 2000
COMMENTS: dict[str, tuple[str, ...]] = {"python": ("#",)}
COMMENTS_ELSEWHERE = ("//", "/*", "*")
"""What lines begin with that are no code."""
BLOCK_LINES = 8
"""Lines of the longest block asked for, as many as the front end suggests."""

Position = Literal["next_line", "line_end", "between_text", "block"]
POSITIONS: tuple[Position, ...] = get_args(Position)
"""next_line: at the indentation of a new line, which is expected whole.
line_end: within a line, whose rest is expected.
between_text: within brackets; what they hold further is expected, and the line's end stays.
block: as next_line, but all lines are expected that follow without being indented less.
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a file and what is to be written there.

    ``head + prefix + expected + suffix + tail`` is the file; only `prefix` and `suffix` are shown.
    """

    position: Position
    prefix: str
    suffix: str
    expected: str
    path: str = ""
    language: str = "python"
    head: str = ""
    tail: str = ""
    package: str = ""
    """Whose file it is, where that is known."""

    @property
    def before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix.rpartition("\n")[2]

    @property
    def after(self) -> str:
        """The cursor's line from the cursor on."""
        return self.suffix.partition("\n")[0]

    def filled(self, text: str) -> str:
        """The whole file with `text` at the cursor."""
        return f"{self.head}{self.prefix}{text}{self.suffix}{self.tail}"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a file, drawn at random."""

    file: SourceFile
    lines: list[str]
    at: int

    @property
    def text(self) -> str:
        return self.lines[self.at]

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip())

    def cursor(self, position: Position, start: int, length: int) -> Cursor:
        """The cursor at column `start`, the next `length` characters of the file being expected."""
        before = "\n".join([*self.lines[: self.at], self.text[:start]])
        after = "\n".join(self.lines[self.at :])[start + length :]
        shown_before = "\n".join(before.split("\n")[-PREFIX_LINES - 1 :])
        shown_after = "\n".join(after.split("\n")[: SUFFIX_LINES + 1])
        return Cursor(
            position,
            prefix=shown_before,
            suffix=shown_after,
            expected="\n".join(self.lines[self.at :])[start : start + length],
            path=self.file.path,
            language=self.file.language,
            head=before[: len(before) - len(shown_before)],
            tail=after[len(shown_after) :],
            package=self.file.package,
        )


class Patience:
    """Ends a search that draws at random and finds nothing."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._missed = 0

    def holds(self) -> bool:
        """True. Raises ValueError once a great many draws in a row have been missed."""
        self._missed += 1
        if self._missed > MISSES:
            raise ValueError(f"there seem to be no {self._wanted} in these files; use others")
        return True

    def renew(self) -> None:
        """A draw has hit."""
        self._missed = 0


def _lines(files: Sequence[SourceFile], rng: random.Random) -> Iterator[_Line]:
    """Random lines of code, for ever: no comment, none of a file's first five, none of under 4 characters.

    Raises ValueError where there seem to be none.
    """
    patience = Patience("lines of code below the fifth")
    while patience.holds():
        file = rng.choice(files)
        lines = file.text.split("\n")
        at = rng.randrange(len(lines))
        code = lines[at].strip()
        if (
            at >= 5
            and len(code) >= 4
            and not code.startswith(COMMENTS.get(file.language, COMMENTS_ELSEWHERE))
        ):
            patience.renew()
            yield _Line(file, lines, at)


def line_cursors(files: Sequence[SourceFile], seed: int) -> Iterator[Cursor]:
    """next_line and line_end in turn, for ever.

    The stream that every published figure of this project was made from: how it draws must not change.
    """
    rng = random.Random(seed)
    lines = _lines(files, rng)
    while True:
        line = next(lines)
        yield line.cursor("next_line", line.indent, len(line.text) - line.indent)
        line = next(lines)
        column = rng.randrange(line.indent + 1, len(line.text))
        yield line.cursor("line_end", column, len(line.text) - column)


def bracketed(line: str) -> list[range]:
    """The columns within each pair of brackets of `line`; ones in strings count, as they do to editors."""
    opened: list[tuple[str, int]] = []
    found: list[range] = []
    for column, char in enumerate(line):
        if char in "([{":
            opened.append((char, column + 1))
        elif char in ")]}" and opened and opened[-1][0] + char in ("()", "[]", "{}"):
            found.append(range(opened.pop()[1], column))
    return found


def between_cursors(files: Sequence[SourceFile], seed: int) -> Iterator[Cursor]:
    """between_text, for ever: within a random pair of brackets, which holds something after the cursor."""
    rng = random.Random(f"between_text {seed}")
    patience = Patience("brackets with something in them")
    for line in _lines(files, rng):
        patience.holds()
        places = [(c, r.stop) for r in bracketed(line.text) for c in r if line.text[c : r.stop].strip()]
        if places:
            patience.renew()
            column, stop = rng.choice(places)
            yield line.cursor("between_text", column, stop - column)


def block_at(text: str, indent: int) -> str:
    """The lines `text` begins with, up to one indented by less than `indent`: the engine's own rule.

    The first line is taken from the cursor on, so its indentation is not looked at.
    """
    cut = find_cut(text, StopSpec(min_indent=indent))
    return text[: cut.at].rstrip() if cut else text.rstrip()


def block_cursors(files: Sequence[SourceFile], seed: int) -> Iterator[Cursor]:
    """block, for ever: at a random line of a block that has at most `BLOCK_LINES` from there on."""
    patience = Patience(f"indented blocks of up to {BLOCK_LINES} lines")
    for line in _lines(files, random.Random(f"block {seed}")):
        patience.holds()
        rest = "\n".join(line.lines[line.at :])[line.indent :]
        expected = block_at(rest, line.indent)
        if line.indent and expected.count("\n") < BLOCK_LINES:
            patience.renew()
            yield line.cursor("block", line.indent, len(expected))


def cursors(files: Sequence[SourceFile], per_position: int, seed: int) -> list[Cursor]:
    """`per_position` cursors of each position. Raises ValueError if `files` are none."""
    if not files:
        raise ValueError("there are no files to put cursors into")
    return [
        *islice(line_cursors(files, seed), 2 * per_position),
        *islice(between_cursors(files, seed), per_position),
        *islice(block_cursors(files, seed), per_position),
    ]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A line of a prompts file."""

    prefix: str
    suffix: str
    expected: str
    path: str = ""
    language: str = "python"

    def __post_init__(self) -> None:
        if not self.expected.strip():
            raise ValueError("expected must hold some text")


def _position_of(prompt: _Prompt) -> Position:
    if "\n" in prompt.expected.strip():
        return "block"
    if prompt.suffix.partition("\n")[0].strip():
        return "between_text"
    return "line_end" if prompt.prefix.rpartition("\n")[2].strip() else "next_line"


def read_prompts(path: Path) -> list[Cursor]:
    """The cursors in a JSON-lines file of objects with `prefix`, `suffix` and `expected`.

    `path` and `language` ("python" without) may be given. The position is told from where the cursor
    is and whether several lines are expected. Raises ValueError as `read_lines`.
    """
    return [
        Cursor(_position_of(p), p.prefix, p.suffix, p.expected, p.path, p.language)
        for p in read_lines(path, _Prompt)
    ]


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """The prompts in a file of one JSON object a line, each read as dataclass `kind`.

    Raises ValueError naming the file and the line at fault, also if there are none.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); name a readable file of JSON lines") from error
    found = [_read_line(path, number, line, kind) for number, line in _numbered(content)]
    if not found:
        raise ValueError(f"{path} holds no prompts; write one JSON object a line")
    return found


def _numbered(content: str) -> Iterable[tuple[int, str]]:
    # Not splitlines: JSON may hold other line separators within its strings.
    return ((number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip())


def _read_line(path: Path, number: int, line: str, kind: type[T]) -> T:
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            raise SchemaError("a prompt is an object, in braces", "")
        return read(kind, cast("object", data))
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
