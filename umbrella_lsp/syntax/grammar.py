"""Grammars and queries, loaded. Knows tree-sitter, and is therefore of no use in the server's own process."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tree_sitter import Language, Query

from umbrella_lsp.syntax.languages import Grammar

_ERRORS = "(ERROR) @error (MISSING) @error"
_DIVIDER = "; --- around a cursor\n"
BRACKETS = frozenset("()[]{}")
STATEMENT_ENDS = frozenset(("{", "}", ";", "\n"))
"""Tokens behind which, in a language with brackets, a statement may begin."""
MAX_BRACKET_CHARS = 3
"""Of a token that holds brackets: `[[`, or `#[`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A grammar ready for use."""

    language: Language
    outline: Query
    """Imports and definitions, for whole files."""
    around: Query
    """What stands where, for a few lines."""
    errors: Query
    delimiters: Query
    """Brackets, and what divides statements."""
    is_indented: bool


@cache
def load(grammar: Grammar) -> Loaded:
    """The grammar of a row of the table. Raises `ImportError` where its wheel is missing."""
    pointer: Callable[[], object] = getattr(importlib.import_module(grammar.module), grammar.function)
    language = Language(pointer())
    folder = Path(__file__).parent / "queries"
    parts = [(folder / f"{name}.scm").read_text("utf-8").split(_DIVIDER) for name in grammar.queries]
    outline, around = ("\n".join(part) for part in zip(*parts, strict=True))
    queries = (Query(language, source) for source in (outline, around, _ERRORS, _delimiters(language)))
    return Loaded(language, *queries, is_indented=grammar.is_indented)


def _delimiters(language: Language) -> str:
    kinds = {
        kind
        for number in range(language.node_kind_count)
        if not language.node_kind_is_named(number)
        and language.node_kind_is_visible(number)
        and (kind := language.node_kind_for_id(number))
        and (kind in STATEMENT_ENDS or (len(kind) <= MAX_BRACKET_CHARS and not BRACKETS.isdisjoint(kind)))
    }
    # Written as JSON is.
    return f"[{' '.join(json.dumps(kind) for kind in sorted(kinds))}] @delimiter"
