from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.draft.suffix as suffix_module
from engine.draft.suffix import CONTINUATION, LONGEST, Match, SuffixIndex

TEXTS = st.lists(st.integers(0, 2), max_size=40)


@st.composite
def histories(draw: st.DrawFn) -> list[list[int]]:
    """Texts, each of which grew, shrank or diverged from the one before it."""
    texts = [draw(TEXTS)]
    for _ in range(draw(st.integers(0, 8))):
        kept = draw(st.integers(0, len(texts[-1])))
        texts.append(texts[-1][:kept] + draw(st.lists(st.integers(0, 2), max_size=12)))
    return texts


def brute_force(tokens: Sequence[int], text: Sequence[int], key: int) -> list[Match]:
    """Every place in `tokens` that agrees with the end of `text`, the longest, then the latest, first."""

    def agreement(place: int) -> int:
        length = 0
        while length < min(LONGEST, place, len(text)) and tokens[place - 1 - length] == text[-1 - length]:
            length += 1
        return length

    places = [(agreement(place), place) for place in range(len(tokens))]
    best = sorted(((length, place) for length, place in places if length >= key), reverse=True)
    return [Match(length, tokens[place : place + CONTINUATION]) for length, place in best]


@given(histories(), TEXTS, st.integers(1, 3), st.integers(1, 4))
def test_matches_are_those_of_brute_force_however_the_text_came_about(
    texts: list[list[int]], other: list[int], key: int, limit: int
):
    index = SuffixIndex(key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suffix_module, "CANDIDATES", 10_000)  # None is left out for being old.
        for text in texts:
            index.update(text)
            for looked_up in (text, other):
                assert index.matches(looked_up, limit) == brute_force(text, looked_up, key)[:limit]


def test_of_very_many_places_the_latest_are_looked_at():
    index = SuffixIndex(key=1)
    index.update([7, 1] * 1000 + [7, 2, 7])
    (latest,) = index.matches([7], 1)
    assert latest == Match(1, [2, 7])


def test_texts_that_come_and_go_do_not_pile_up():
    index = SuffixIndex(key=2)
    for last in range(1000):
        index.update([1, 2, 3, 1, 2, 5 + last])
    held = sum(len(places) for places in index._places.values())
    assert held < 50
    assert index.matches([1, 2], 1) == [Match(2, [1004])]
