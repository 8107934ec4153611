"""What the language server asks its syntax process, and what it is told."""

from __future__ import annotations

import msgspec

from umbrella_lsp.syntax.facts import CursorSyntax, InsertedSyntax
from umbrella_lsp.syntax.languages import Grammar


class Splice(msgspec.Struct, frozen=True, array_like=True):
    """`text` in the place of what lies from `start` to `end`, in code points."""

    start: int
    end: int
    text: str


class Question(msgspec.Struct, frozen=True, array_like=True):
    """A question about a document. Texts have LF line ends and no lone surrogates."""

    uri: str
    grammar: Grammar
    whole: str | None
    """The document, if the process does not have it."""
    change: Splice | None
    """How the document became another since the last question about it; kept before anything is answered."""
    about: int | Splice
    """A cursor's offset, or text that might be put into the document."""
    forget: str | None
    """A document that is asked about no more."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The one of the two that was asked for, or neither if nothing can be told."""

    cursor: CursorSyntax | None = None
    inserted: InsertedSyntax | None = None
