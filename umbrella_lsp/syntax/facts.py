"""What syntax says about a cursor and about text put there, as plain values. Knows nothing of parsers.

Sources have LF line ends; lines count from 0, columns and offsets count code points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Within = Literal["code", "string", "comment"]
DefinitionKind = Literal["class", "function", "variable", "type", "module"]


@dataclass(frozen=True, slots=True)
class Definition:
    """A named thing that code may refer to."""

    kind: DefinitionKind
    name: str
    line: int
    """Of its first character, decorators and doc comments excluded."""
    end_line: int
    """Line of its last character."""
    column: int
    """Of its first character."""
    header: str
    """From its first character to where its body begins; the whole of what has no body."""


@dataclass(frozen=True, slots=True)
class CursorSyntax:
    """What the tree says about the place of a cursor."""

    within: Within = "code"
    imports: tuple[str, ...] = ()
    """Statements that bring in names, in order."""
    scopes: tuple[Definition, ...] = ()
    """Definitions that the cursor stands in, outermost first. On a blank line its indentation decides."""
    names: tuple[str, ...] = ()
    """Names in use around the cursor, nearest first, each once, without the one being typed."""
    definitions: tuple[Definition, ...] = ()
    """What this document defines under one of `names`, in order."""
    opens_block: bool = False
    """The code before the cursor, blanks and line ends aside, ends with what opens a block or a bracket."""
    in_statement: bool = False
    """The cursor stands inside a statement that began on an earlier line, as between brackets."""
    is_current: bool = True
    """False: the tree is that of an earlier text. What surrounds the cursor has hardly changed since, but
    what is said of the cursor itself (`within`, `opens_block`, `in_statement`) may be wrong."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """A bracket token of the text: not one in a string or a comment. ``${`` of a template counts as ``{``."""

    at: int
    char: str


@dataclass(frozen=True, slots=True)
class InsertedSyntax:
    """What the tree says about text once it stands at the cursor. Offsets are into that text."""

    brackets: tuple[Bracket, ...] = ()
    ends: tuple[int, ...] = ()
    """Where statements end that are children of the cursor's own block, ascending."""
    leaves_at: int | None = None
    """Where the first of them ends after which no other can be reached: ``return``, ``break`` and such."""
    within: Within = "code"
    """Where the end of the text stands."""
    is_broken: bool = False
    """The tree has more errors with the text than without it."""
