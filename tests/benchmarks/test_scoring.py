from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cursors import Cursor
from benchmarks.scoring import BINS, Threshold, calibrate, line_matches, matches, parses, score, similarity


def cursor(expected: str, prefix: str = "", suffix: str = "", language: str = "python") -> Cursor:
    return Cursor("block", prefix, suffix, expected, language=language)


@pytest.mark.parametrize(
    ("text", "whole", "first"),
    [
        ("a = 1\nb = 2", True, True),
        (" a = 1  \nb = 2\n", True, True),
        ("a = 1\n b = 2", False, True),
        ("a = 1", False, True),
        ("a = 2\nb = 2", False, False),
        ("", False, False),
    ],
)
def test_a_match_minds_everything_but_blanks_at_ends(text: str, whole: bool, first: bool):
    place = cursor("a = 1\nb = 2")
    assert (matches(place, text), line_matches(place, text)) == (whole, first)


def test_similarity_is_one_for_the_same_and_zero_for_nothing_in_common():
    assert similarity(cursor("abc"), "abc") == 1.0
    assert similarity(cursor("abc"), "xyz") == 0.0
    assert similarity(cursor("abcd"), "ab") == pytest.approx(2 * 2 / 6)


def test_source_with_a_doubtful_escape_parses_and_broken_source_does_not():
    assert parses("x = '\\d'")
    assert not parses("x = (")
    assert not parses("x = '\0'")
    assert not parses("-" * 100_000 + "1")


def test_parse_success_is_over_answers_given_in_python_files_that_parsed_as_they_were():
    parsed = cursor("1", "x = (", ")\n")
    broken = cursor("1", "x = (", "\n")
    other = cursor("1", "x = (", ")\n", language="rust")
    found = score([parsed, parsed, parsed, broken, other], ["2", "2 +", " ", "2", "2"])
    assert found.parse_success == 0.5
    assert found.empty == 0.2


def test_scores_are_shares_of_the_prompts():
    found = score([cursor("a\nb"), cursor("a\nb"), cursor("c"), cursor("d")], ["a\nb", "a\nc", "c", "e"])
    assert (found.prompts, found.exact_match, found.first_line_match) == (4, 0.5, 0.75)


def test_nothing_to_score_gives_no_figures():
    found = score([], [])
    assert (found.prompts, found.exact_match, found.parse_success) == (0, None, None)
    with pytest.raises(ValueError, match="zip"):
        score([cursor("a")], [])


def test_confidences_that_come_true_as_often_as_they_say_have_no_error():
    confidences = [0.25] * 40 + [0.75] * 40
    correct = [i % 4 == 0 for i in range(40)] + [i % 4 != 0 for i in range(40)]
    # Each bin of eight holds the stated share of right ones.
    assert calibrate(confidences, correct).ece == 0.0


def test_full_confidence_in_what_is_always_wrong_is_all_error_and_shows_nothing():
    found = calibrate([1.0] * 30, [False] * 30)
    assert (found.ece, found.threshold) == (1.0, None)


def test_the_error_is_the_mean_distance_of_a_bins_confidence_from_its_share_of_right_ones():
    found = calibrate([0.1, 0.3, 0.6, 1.0], [False, True, False, True])
    assert found.ece == pytest.approx((0.1 + 0.7 + 0.6 + 0.0) / 4)


def test_the_threshold_shows_what_is_right_and_hides_what_is_not_where_confidence_tells_them_apart():
    found = calibrate([0.9, 0.2, 0.8, 0.1], [True, False, True, False])
    assert found.threshold == Threshold(confidence=0.8, precision=1.0, recall=1.0, coverage=0.5)


def test_answers_of_one_confidence_are_shown_all_or_none():
    found = calibrate([0.5] * 4, [True, False, False, True])
    assert found.threshold == Threshold(confidence=0.5, precision=0.5, recall=1.0, coverage=1.0)


def test_nothing_answered_has_no_calibration():
    found = calibrate([], [])
    assert (found.ece, found.threshold, found.bins) == (None, None, ())


answers = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(answers)
def test_bins_hold_every_answer_once_in_parts_as_equal_as_can_be(given_answers: list[tuple[float, bool]]):
    found = calibrate([c for c, _ in given_answers], [r for _, r in given_answers])
    counts = [one.count for one in found.bins]
    assert sum(counts) == len(given_answers)
    assert len(counts) == min(BINS, len(given_answers))
    assert max(counts) - min(counts) <= 1
    assert found.ece is not None
    assert 0.0 <= found.ece <= 1.0


@given(answers)
def test_a_threshold_says_truly_what_it_shows(given_answers: list[tuple[float, bool]]):
    threshold = calibrate([c for c, _ in given_answers], [r for _, r in given_answers]).threshold
    right = sum(r for _, r in given_answers)
    assert (threshold is None) == (right == 0)
    if threshold:
        shown = [r for c, r in given_answers if c >= threshold.confidence]
        assert threshold.precision == sum(shown) / len(shown)
        assert threshold.recall == sum(shown) / right
        assert threshold.coverage == len(shown) / len(given_answers)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("c", "int f(void) { return 1; }"),
        ("go", "package a\n\nfunc f() {}\n"),
        ("java", "class A { int x = 1; }"),
        ("rust", "fn f() -> u8 { 1 }"),
        ("typescriptreact", "const a = <b>{x as string}</b>;"),
    ],
)
def test_source_in_another_language_parses_as_its_grammar_says(language: str, text: str):
    assert parses(text, language)
    assert not parses(text + " )", language)
    assert not parses(text, "cobol")
