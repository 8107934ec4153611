"""Answers without an engine."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.umbrella_lsp.cursor import at_cursor
from umbrella_lsp.document import Document
from umbrella_lsp.fit.postprocess import Fitted
from umbrella_lsp.memory import MAX_ENTRIES, Anchor, Entry, Made, Memory, Tier
from umbrella_lsp.text import Text


def put(memory: Memory, marked: str, *texts: str, replaces: int = 0, tier: Tier = "target") -> Entry:
    entry = memory.entry(Anchor.at(*at_cursor(marked)), tier)
    entry.texts = {number: Made(Fitted(text, replaces)) for number, text in enumerate(texts)}
    entry.is_final = True
    return entry


def remembering(marked: str, *texts: str, replaces: int = 0) -> Memory:
    memory = Memory()
    put(memory, marked, *texts, replaces=replaces)
    return memory


def left(memory: Memory, marked: str) -> list[str]:
    return [left.fitted.text for left in memory.left(*at_cursor(marked))]


@given(st.integers(0, 11))
def test_what_is_left_follows_what_was_typed_of_it(typed: int) -> None:
    text = "name + other"
    assert left(remembering("x = ‸\n", text), f"x = {text[:typed]}‸\n") == [text[typed:]]


def test_what_has_been_typed_whole_leaves_nothing() -> None:
    assert left(remembering("x = ‸\n", "name"), "x = name‸\n") == []


@pytest.mark.parametrize("marked", ["x = no‸\n", "z = ‸\n", "x = ‸\nz\n", "x = n‸ \n", "‸x = \n"])
def test_nothing_is_left_where_anything_else_was_changed(marked: str) -> None:
    assert left(remembering("x = ‸\n", "name"), marked) == []


def test_another_document_with_the_same_text_is_not_answered() -> None:
    document, offset = at_cursor("x = ‸\n")
    other = Document.of("file:///home/someone/other.py", document.text, "python")
    assert [*remembering("x = ‸\n", "name").left(other, offset)] == []


def test_deleting_what_was_typed_finds_the_suggestion_again() -> None:
    memory = remembering("x = ‸\n", "name")
    put(memory, "x = nob‸\n", "ody")
    assert left(memory, "x = n‸\n") == ["ame"]
    assert left(memory, "x = ‸\n") == ["name"]


def test_typing_into_an_alternative_leaves_the_rest_of_that() -> None:
    memory = remembering("x = ‸\n", "name", "number", "other")
    assert left(memory, "x = n‸\n") == ["ame", "umber"]
    assert left(memory, "x = nu‸\n") == ["mber"]


def test_the_target_goes_before_the_draft_and_the_latest_before_the_rest() -> None:
    memory = remembering("x = ‸\n", "old")
    put(memory, "x = ‸\n", "guess", tier="draft")
    assert left(memory, "x = ‸\n") == ["old", "guess"]
    put(memory, "x = ‸\n", "new")
    assert left(memory, "x = ‸\n") == ["new", "guess"]


@pytest.mark.parametrize(
    ("text", "marked", "rest", "replaces"),
    [
        ("(name)", "print(‸)\n", "name", 0),
        ("(name)", "print(na‸)\n", "me", 0),
        ("(name) + 1", "print(‸)\n", "name) + 1", 1),
        ("(f(x), y) + 1", "print(f(‸))\n", "x), y) + 1", 2),
        ("(\n    name,\n) + 1", "print(‸)\n", "\n    name,\n) + 1", 1),
        ("(\n    name,\n)", "print(‸)\n", "\n    name,\n", 0),
        ("(name, ", "print(‸)\n", "name, ", 0),
        ("(f(x)", "print(‸)\n", "f(x)", 0),
        ("([name], ", "print([‸])\n", "name", 0),
        ('"a" + b', 'print"‸"\n', 'a" + b', 1),
    ],
)
def test_closers_an_editor_adds_are_neither_doubled_nor_lost(
    text: str, marked: str, rest: str, replaces: int
) -> None:
    (found,) = remembering("print‸\n", text).left(*at_cursor(marked))
    assert found.fitted == Fitted(rest, replaces)


def test_what_a_suggestion_replaces_it_still_replaces_when_part_of_it_is_typed() -> None:
    (found,) = remembering("f(‸)\n", "a) + b", replaces=1).left(*at_cursor("f(a‸)\n"))
    assert found.fitted == Fitted(") + b", 1)


def test_typing_along_works_over_windows_line_ends() -> None:
    assert left(remembering("if x:‸\r\n", "\n    pass"), "if x:\r\n    pa‸\r\n") == ["ss"]


def test_the_likelihood_left_is_that_of_the_first_line_of_what_is_left() -> None:
    made = Made(Fitted("\nab cd\nef"), marks=((0, -4.0), (3, -2.0), (6, -1.0), (7, -0.5)))
    assert made.likelihood_after(0) == pytest.approx(-7.0)  # The line's end is a part of it.
    assert made.likelihood_after(3) == pytest.approx(-3.0)
    assert made.likelihood_after(7) == pytest.approx(-0.5)
    assert math.isclose(Made(Fitted("ab")).likelihood_after(0), 0.0)


def test_what_was_made_far_away_costs_no_copy_of_what_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document.of("file:///home/someone/app.py", "x = 1\n" * 50_000, "python")
    memory = Memory()
    for line in range(50):
        anchor = Anchor.at(document, line * 6)
        memory.entry(anchor, "target").texts = {0: Made(Fitted("x = 1\nx"))}
        assert anchor.run_to(document, len(document.content)) is None
    copied: list[int] = []
    cut = Text.slice

    def counted(text: Text, start: int, end: int) -> str:
        copied.append(end - start)
        return cut(text, start, end)

    monkeypatch.setattr(Text, "slice", counted)
    assert [*memory.left(document, len(document.content))] == []
    assert sum(copied) < 1000


def test_only_so_many_are_kept() -> None:
    memory = remembering("first = ‸\n", "name")
    for number in range(MAX_ENTRIES):
        put(memory, f"x{number} = ‸\n", "name")
    assert left(memory, "first = ‸\n") == []
    assert left(memory, "x0 = ‸\n") == ["name"]


def test_a_place_where_the_target_had_nothing_to_say_is_known() -> None:
    memory = remembering("x = 1‸\n")
    assert memory.is_empty_at(*at_cursor("x = 1‸\n"))
    assert not memory.is_empty_at(*at_cursor("x = ‸1\n"))
    put(memory, "x = 1‸\n", "0")
    assert not memory.is_empty_at(*at_cursor("x = 1‸\n"))


def test_clearing_forgets_everything() -> None:
    memory = remembering("x = ‸\n", "name")
    memory.clear()
    assert left(memory, "x = ‸\n") == []
