from __future__ import annotations

import pytest

from benchmarks.baselines import copied, most_frequent
from benchmarks.cursors import Cursor, Position


def cursor(position: Position, prefix: str, suffix: str = "\n") -> Cursor:
    return Cursor(position, prefix, suffix, expected="?")


def test_a_new_line_is_copied_from_below_the_line_most_like_the_one_above():
    place = cursor("next_line", "alpha = 1\nbeta = 2\n\nunlike()\nother\n\nalpha = 3\n")
    assert copied(place) == "beta = 2"


def test_of_places_equally_alike_the_nearest_is_copied_above_or_below():
    above = "same\nfar\nsame\nnear\n"
    assert copied(cursor("next_line", above + "x\n\nsame\n")) == "near"
    assert copied(cursor("next_line", above + "x\ny\nz\nsame\n", "\nsame\nbelow\n")) == "below"


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        ("self.name", " = name"),
        ("return self.si", "ze"),  # nothing begins with all of it, so its longest ending counts
        ("§", ""),
    ],
)
def test_a_begun_line_goes_on_as_its_longest_ending_did(begun: str, rest: str):
    place = cursor("line_end", f"self.name = name\nself.size = size\nx = self.size\n{begun}")
    assert copied(place) == rest


def test_a_begun_line_goes_on_as_the_nearest_or_as_most_lines_did():
    place = cursor("line_end", "go(1)\ngo(1)\ngo(2)\ngo(")
    assert (copied(place), most_frequent(place)) == ("2)", "1)")


def test_the_most_frequent_line_is_one_of_those_indented_alike():
    place = cursor("next_line", "a\n    b\na\n    c\n    b\na\n    ", "\n    c\n    c\n")
    assert most_frequent(place) == "c"
    assert most_frequent(cursor("next_line", "a\nb\nb\n    ")) == "b"


def test_a_copied_block_is_indented_like_the_cursor():
    place = cursor(
        "block", "def f():\n    if a:\n        b\n\n    return c\n\nclass D:\n    def f():\n        "
    )
    assert copied(place) == "if a:\n            b\n\n        return c"


def test_the_most_frequent_block_is_the_one_that_stands_most_often():
    place = cursor("block", "if a:\n    b\nif c:\n    d\nif e:\n    b\nif f:\n    ", "\nif g:\n    h\n")
    assert most_frequent(place) == "b"


@pytest.mark.parametrize("position", ["next_line", "line_end", "block"])
@pytest.mark.parametrize("prefix", ["", "    ", "\n\n"])
def test_where_nothing_is_visible_nothing_is_answered(position: Position, prefix: str):
    place = cursor(position, prefix, "")
    assert (copied(place), most_frequent(place)) == ("", "")
