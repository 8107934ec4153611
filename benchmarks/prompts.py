"""Prompts to decode, as token ids: held-out code, an edit being repeated, random text, or a user's own.

Where the code comes from is installed beside the tests, and the bundled pair was not trained on it. Nothing
is fetched.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from benchmarks.cursors import Patience
from engine.loaded import LoadedEngine
from engine.protocol import Segment

PACKAGES = ("structlog", "tinydb", "aiosqlite")
FILE = "app/module.py"
PREFIX_CHARACTERS, SUFFIX_CHARACTERS = (200, 2400), (0, 600)
"""Drawn within these."""
RANDOM_TOKENS = (150, 700)
"""Length of random text, drawn within these as far as the context has room."""
REPEATED_WITHIN = 1200
"""Characters of code from the first place of an edit to where it is made for the third time."""
SHOWN_CHARACTERS = 2000, 300
"""Before and after an edit: all that its repeating needs."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A line of a prompts file."""

    prefix: str
    suffix: str
    path: str = FILE
    language: str = "python"


def held_out() -> dict[str, list[str]]:
    """The texts of Python files, by package and its version. Raises ValueError if one is not installed."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        try:
            installed = distribution(package)
        except PackageNotFoundError as error:
            raise ValueError(
                f"{package}, whose code is continued, is not installed: pip install {' '.join(PACKAGES)}, or "
                "name a file of your own with --prompts"
            ) from error
        files = [Path(str(f.locate())) for f in installed.files or [] if f.suffix == ".py"]
        texts = [file.read_text(encoding="utf-8") for file in sorted(files)]
        found[f"{package} {installed.version}"] = [text for text in texts if text.strip()]
    return found


class Prompts:
    """Makes prompts for one engine, with room for `max_tokens` more. What is drawn depends on `seed` alone.

    As always, prompts leave out the word at the cursor; here nothing makes the model write it again.
    """

    def __init__(self, engine: LoadedEngine, max_tokens: int, seed: int) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self._seed = seed

    def around(self, cursor: Cursor) -> Tokens:
        """The prompt at `cursor`. Raises RequestError if the context holds none at all."""
        segments = (Segment("prefix", cursor.prefix), Segment("suffix", cursor.suffix))
        prompts = self._engine.prompts
        return prompts.code(segments, cursor.path, cursor.language, self._max_tokens).tokens

    def code(self, texts: Sequence[str], count: int) -> list[Tokens]:
        """At `count` random places in `texts`. Raises ValueError if they are all short."""
        rng = random.Random(f"code {self._seed}")
        patience, found = Patience("long files"), list[Tokens]()
        while len(found) < count and patience.holds():
            text = rng.choice(texts)
            before, after = rng.randint(*PREFIX_CHARACTERS), rng.randint(*SUFFIX_CHARACTERS)
            if len(text) > before + after:
                patience.renew()
                at = rng.randint(before, len(text) - after)
                found.append(self.around(Cursor(text[at - before : at], text[at : at + after])))
        return found

    def repeated_edit(self, texts: Sequence[str], count: int) -> list[Tokens]:
        """In `texts`, at `count` places where the same edit was made in the two functions before.

        Raises ValueError if no three functions are close to one another.
        """
        rng = random.Random(f"repeated edit {self._seed}")
        places = [(text, three) for text in texts for three in _threes(text)]
        if not places:
            raise ValueError("these files have no three functions close to one another; use others")
        drawn = (rng.choice(places) for _ in range(count))
        return [self.around(third_edit(text, three, rng.choice(EDITS))) for text, three in drawn]

    def random_text(self, count: int) -> list[Tokens]:
        """Token ids drawn evenly from the vocabulary, special ones left out, after the begin token."""
        rng = random.Random(f"random text {self._seed}")
        engine = self._engine
        ordinary = [token for token, text in engine.tokenizer.texts() if text]
        begin = [] if engine.begin_token is None else [engine.begin_token]
        room = engine.decoder.max_length - self._max_tokens - len(begin)
        lengths = [rng.randint(*(min(bound, room) for bound in RANDOM_TOKENS)) for _ in range(count)]
        return [tuple(begin + rng.choices(ordinary, k=length)) for length in lengths]


EDITS = (
    (
        "if self._closed:",
        '    self._log.warning("already closed")',
        '    raise RuntimeError("already closed")',
    ),
    (
        "with self._lock:",
        "    self._calls += 1",
        "    self._last_used = time.monotonic()",
        '    self._log.debug("used %d times", self._calls)',
    ),
    (
        "try:",
        "    self._check()",
        "except ValueError as error:",
        '    self._log.error("check failed: %s", error)',
        '    raise RuntimeError("check failed") from error',
    ),
)
"""Lines that may be put at the beginning of any method."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a function's statements begin, below its docstring."""

    line: int
    """Counted from 0."""
    indent: int

    def edit(self, lines: Sequence[str]) -> list[str]:
        """`lines` as they stand here."""
        return [" " * self.indent + line for line in lines]


def _places(text: str) -> list[_Place]:
    """Of all functions whose statements begin on a line of their own, in order."""
    lines, found = text.split("\n"), list[_Place]()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        # A decorator stands above the line that its function says it begins on.
        if not body or getattr(body[0], "decorator_list", ()):
            continue
        line, indent = body[0].lineno - 1, body[0].col_offset
        if not lines[line][:indent].strip():
            found.append(_Place(line, indent))
    return sorted(found, key=lambda place: place.line)


def _threes(text: str) -> list[tuple[_Place, _Place, _Place]]:
    """Every three places in a row that are close enough for one edit."""
    lines, places = text.split("\n"), _places(text)
    threes = zip(places, places[1:], places[2:], strict=False)
    return [
        three for three in threes if len("\n".join(lines[three[0].line : three[2].line])) <= REPEATED_WITHIN
    ]


def third_edit(text: str, three: tuple[_Place, _Place, _Place], edit: Sequence[str]) -> Cursor:
    """`text` with `edit` made at the first two places, its first word typed at the third."""
    first, second, third = three
    lines = text.split("\n")
    before = [
        *lines[: first.line],
        *first.edit(edit),
        *lines[first.line : second.line],
        *second.edit(edit),
        *lines[second.line : third.line],
        f"{' ' * third.indent}{edit[0].split()[0]} ",
    ]
    after = ["", *lines[third.line :]]
    return Cursor("\n".join(before)[-SHOWN_CHARACTERS[0] :], "\n".join(after)[: SHOWN_CHARACTERS[1]])
