from __future__ import annotations

import itertools
from statistics import mean

from benchmarks.oracle import ECHO, Oracle

LINE = "the quick brown fox jumps"


def walked(oracle: Oracle, before: str, coming: str, after: str = "\n") -> list[str]:
    """What is said at each key while `coming` is typed."""
    said: list[str] = []
    for size in range(len(coming) + 1):
        text = before + coming[:size]
        oracle.show(text + after, len(text), coming[size:])
        said.append(oracle.answer(text, after, "target").text)
    return said


def test_an_author_who_is_always_right_says_what_comes():
    oracle = Oracle(1.0, 0)
    oracle.show("a = \n", 4, LINE)
    answer = oracle.answer("a = ", "\n", "target")
    assert answer.is_right
    assert answer.text.startswith(LINE)


def test_the_rest_of_a_line_is_right_with_the_probability_given():
    oracle = Oracle(0.7, 3)
    right: list[bool] = []
    for number in range(600):
        text = f"line {number}: "
        oracle.show(text, len(text), LINE)
        right.append(oracle.answer(text, "", "target").is_right)
    assert abs(mean(right) - 0.7) < 0.05


def test_the_draft_is_right_less_often():
    oracle = Oracle(0.7, 3)
    right: list[bool] = []
    for number in range(600):
        text = f"line {number}: "
        oracle.show(text, len(text), LINE)
        right.append(oracle.answer(text, "", "draft").is_right)
    assert abs(mean(right) - 0.42) < 0.05


def test_what_is_said_agrees_with_what_was_said_before_as_long_as_that_is_typed():
    compared = 0
    for seed in range(30):
        said = walked(Oracle(0.5, seed), f"x{seed} = ", LINE)
        for size, (earlier, later) in enumerate(itertools.pairwise(said)):
            if earlier.startswith(LINE[size]):
                assert earlier[1:] == later
                compared += 1
    assert compared > 100


def test_a_typing_error_taken_back_leads_to_the_same_answer():
    for seed in range(20):
        oracle = Oracle(0.5, seed)
        oracle.show("a = ", 4, LINE)
        before = oracle.answer("a = ", "", "target")
        oracle.show("a = z", 5, "")
        oracle.show("a = ", 4, LINE)
        assert oracle.answer("a = ", "", "target") == before


def test_a_document_that_an_accept_leads_to_is_known_before_it_is_there():
    oracle = Oracle(1.0, 0)
    oracle.show("a = ", 4, "one\ntwo\n")
    assert oracle.answer("a = one\n", "", "target").text == "two\n"


def test_a_document_that_is_not_going_to_be_gets_something_wrong():
    oracle = Oracle(1.0, 0)
    oracle.show("a = ", 4, "one\ntwo\n")
    answer = oracle.answer("a = something else", "", "target")
    assert answer.wrong_from == 0
    assert answer.text


def test_some_right_answers_go_on_with_what_stands_behind_the_cursor():
    oracle = Oracle(1.0, 1)
    echoes: list[bool] = []
    for number in range(400):
        text = f"call{number}("
        oracle.show(text + ")\nnext()\n", len(text), "x")
        echoes.append(oracle.answer(text, ")\nnext()\n", "target").text == "x)\nnext()")
    assert abs(mean(echoes) - ECHO) < 0.07


def test_windows_line_ends_are_the_same_place():
    oracle = Oracle(1.0, 0)
    oracle.show("a\r\nb = ", 7, "1\r\n")
    assert oracle.answer("a\nb = ", "", "target").text == "1\n"


def test_a_text_is_astray_once_something_else_was_typed():
    oracle = Oracle(1.0, 0)
    long = "some code\n" * 60
    for before in ("a = ", long + "a = "):
        oracle.show(before + "on", len(before) + 2, "e")
        assert not oracle.is_astray(before, "one")
        assert not oracle.is_astray(before + "one", "more")  # The cursor may get there yet.
        assert oracle.is_astray(before, "two")
