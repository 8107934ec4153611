"""How good answers are, given what stood there, and what confidences are worth. Pure; knows no models."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from statistics import fmean

from tree_sitter import Parser

from benchmarks.cursors import Cursor
from umbrella_lsp.syntax.grammar import load
from umbrella_lsp.syntax.languages import GRAMMARS

BINS = 10
BETA = 0.5
"""Precision weighs twice as much as recall: a wrong suggestion interrupts, a missing one does not."""


def line_matches(cursor: Cursor, text: str) -> bool:
    """Whether the first line is the expected one, blanks at its ends aside."""
    return text.partition("\n")[0].strip() == cursor.expected.partition("\n")[0].strip()


def matches(cursor: Cursor, text: str) -> bool:
    """Whether `text` is what was expected, blanks at its ends and at its lines' ends aside."""
    return _trimmed(text) == _trimmed(cursor.expected)


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]


def similarity(cursor: Cursor, text: str) -> float:
    """Ratcliff and Obershelp's ratio of `text` to what was expected, 0 to 1."""
    return SequenceMatcher(None, text, cursor.expected).ratio()


def parses(text: str, language: str = "python") -> bool:
    """Whether `text` is a source of `language`: as Python says itself, or else without an error in its tree.

    Nothing is, of a language without a grammar.
    """
    if language != "python":
        grammar = GRAMMARS.get(language)
        return (
            grammar is not None
            and not Parser(load(grammar).language).parse(text.encode("utf-8", "replace")).root_node.has_error
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in strings, which do parse
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's own ways to refuse
        return False
    return True


@dataclass(frozen=True, slots=True)
class Scores:
    """How good the answers to some cursors are. Shares, 0 to 1; None where nothing is counted."""

    prompts: int
    exact_match: float | None
    """Of the whole that was expected: the line, the rest of it, or the block."""
    first_line_match: float | None
    edit_similarity: float | None
    parse_success: float | None
    """Of files that parse as they were: those that do with the answer. Empty answers do not count."""
    empty: float | None
    """Answers that hold nothing, wherever something was expected."""


def score(cursors: Sequence[Cursor], texts: Sequence[str]) -> Scores:
    """Score `texts`, the answers to `cursors`. Raises ValueError if there are not as many."""
    pairs = list(zip(cursors, texts, strict=True))
    parsing = [
        parses(cursor.filled(text), cursor.language)
        for cursor, text in pairs
        if text.strip() and parses(cursor.filled(cursor.expected), cursor.language)
    ]
    return Scores(
        prompts=len(pairs),
        exact_match=share([matches(cursor, text) for cursor, text in pairs]),
        first_line_match=share([line_matches(cursor, text) for cursor, text in pairs]),
        edit_similarity=share([similarity(cursor, text) for cursor, text in pairs]),
        parse_success=share(parsing),
        empty=share([not text.strip() for _, text in pairs]),
    )


def share(values: Sequence[float]) -> float | None:
    """The mean, to four digits; None of nothing."""
    return round(fmean(values), 4) if values else None


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence."""

    confidence: float
    """Their mean confidence."""
    correct: float
    """The share of them that is right."""
    count: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """Show what is at least so confident."""

    confidence: float
    precision: float
    """Of what is shown: the share that is right."""
    recall: float
    """Of what is right: the share that is shown."""
    coverage: float
    """Of everything: the share that is shown."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a confidence says about being right."""

    ece: float | None
    threshold: Threshold | None
    """None if nothing was right, so that there is nothing worth showing."""
    bins: tuple[Bin, ...]


def calibrate(confidences: Sequence[float], correct: Sequence[bool]) -> Calibration:
    """Measure how well `confidences`, 0 to 1, tell what is `correct`. Raises ValueError if not of one length.

    The expected calibration error (Naeini et al. 2015) is taken over `BINS` bins of equal mass (Nguyen
    and O'Connor 2015), for confidences crowd at the ends. The threshold is the one of the highest
    F-measure with `BETA`, chosen on these same answers.
    """
    ranked = sorted(zip(confidences, correct, strict=True), key=lambda answer: answer[0])
    cuts = [len(ranked) * index // BINS for index in range(BINS + 1)]
    groups = [ranked[low:high] for low, high in pairwise(cuts) if high > low]
    bins = tuple(
        Bin(round(fmean(c for c, _ in group), 4), round(fmean(r for _, r in group), 4), len(group))
        for group in groups
    )
    errors = [abs(one.confidence - one.correct) for one in bins for _ in range(one.count)]
    return Calibration(share(errors), _best_threshold(ranked), bins)


def _best_threshold(ranked: Sequence[tuple[float, bool]]) -> Threshold | None:
    """The best of all thresholds for answers in ascending order of confidence."""
    right = sum(correct for _, correct in ranked)
    best, best_measure, hits = None, 0.0, 0
    for shown, (confidence, correct) in enumerate(reversed(ranked), 1):
        hits += correct
        ties_follow = shown < len(ranked) and ranked[-shown - 1][0] == confidence
        # F = (1 + b²) P R / (b² P + R), with P = hits / shown and R = hits / right.
        measure = (1 + BETA**2) * hits / (BETA**2 * right + shown)
        if not ties_follow and measure > best_measure:
            best_measure = measure
            best = Threshold(confidence, hits / shown, hits / right, shown / len(ranked))
    return best
