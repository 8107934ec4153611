"""Grammars and queries, loaded. Knows tree-sitter, and is therefore of no use in the server's own process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from tree_sitter import Language, Parser, Query

from umbrella_lsp.syntax.languages import Grammar

_ERRORS = "(ERROR) @error (MISSING) @error"
_DIVIDER = "; --- around a cursor\n"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A grammar ready for use."""

    parser: Parser
    outline: Query
    """Imports and definitions, for whole files."""
    around: Query
    """What stands where, for a few lines."""
    errors: Query
    is_indented: bool


@cache
def load(grammar: Grammar) -> Loaded:
    """The grammar of a row of the table. Raises `ImportError` where its wheel is missing."""
    pointer: Callable[[], object] = getattr(importlib.import_module(grammar.module), grammar.function)
    language = Language(pointer())
    folder = resources.files("umbrella_lsp.syntax") / "queries"
    parts = [(folder / f"{name}.scm").read_text("utf-8").split(_DIVIDER) for name in grammar.queries]
    outline, around = ("\n".join(part) for part in zip(*parts, strict=True))
    queries = (Query(language, source) for source in (outline, around, _ERRORS))
    return Loaded(Parser(language), *queries, is_indented=grammar.is_indented)
