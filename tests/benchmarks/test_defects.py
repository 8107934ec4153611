from __future__ import annotations

import pytest

from benchmarks.client_document import position
from benchmarks.defects import Placed, duplicated_characters, placed, stale_characters


def at(marked: str, text: str, replaces: int = 0) -> tuple[str, Placed]:
    """`text` suggested at the ``|`` of `marked`, in the place of what follows."""
    cursor = marked.index("|")
    return marked.replace("|", ""), Placed(cursor, cursor + replaces, cursor, text)


def doubled(marked: str, text: str, coming: str = "", replaces: int = 0) -> int:
    document, place = at(marked, text, replaces)
    return duplicated_characters(document, place, coming)


@pytest.mark.parametrize(
    ("marked", "text", "characters"),
    [
        ("print(|)", "x)", 1),
        ("f(g(|))", "x))", 2),
        ('say("|")', 'hello"', 1),
        ('say("|")', 'hello")', 2),
        ("x = |  # the reason", "1  # the reason", 14),
        ("call(\n    a|\n)", ",\n    b\n)", 1),
        ("def f():\n    |\n    return x", "y = 1\n    return x", 8),
        ("|\nreturn x", "return x", 8),
        ("if a:\n    one()|\nelse:\n    two()", "\nelse:\n    two()", 10),
    ],
)
def test_what_stands_behind_the_cursor_already_is_doubled(marked: str, text: str, characters: int):
    assert doubled(marked, text) == characters


@pytest.mark.parametrize(
    ("marked", "text"),
    [
        ("print(|)", "f(x)"),
        ("print(|", "x)"),
        ("call(\n    f(a|\n)", ", b)"),
        ("foo(bar(\n|)", "x)"),
        ("say(|)", '"hello"'),
        ("x = |\n}", "{\n}"),
        ("a = |\nb = 2", "b = 1"),
        ("|each", "one "),
    ],
)
def test_what_only_looks_alike_is_not(marked: str, text: str):
    assert doubled(marked, text) == 0


def test_what_is_replaced_does_not_stand_there_any_more():
    assert doubled("print(|)", "x)", replaces=1) == 0


def test_what_the_recording_doubles_itself_is_not_held_against_a_suggestion():
    assert doubled("print(|)", "x)", coming="x) + 1") == 0
    assert doubled("print(|)", "y))", coming="x)") == 1


@pytest.mark.parametrize(
    ("marked", "text", "coming", "characters"),
    [
        ("value = fo|", "foo()", "o()", 2),  # Made before `fo` was typed.
        ("value = fo|", "o()", "o()", 0),
        ("bal|", "lance", "ance", 1),
        ("bal|", "lance", "lance", 0),
        ("    |", "    return", "x", 0),  # Wrong, but for all one knows made for this very text.
    ],
)
def test_what_was_typed_before_the_suggestion_came_is_stale(
    marked: str, text: str, coming: str, characters: int
):
    assert stale_characters(*at(marked, text), coming) == characters


def test_what_was_typed_must_not_be_written_over():
    assert stale_characters("self.nam", Placed(5, 8, 8, "name"), "e") == 0
    assert stale_characters("self.num", Placed(5, 8, 8, "name"), "e") == 3


def item(line: int, start: int, end: int) -> dict[str, object]:
    where = {"start": {"line": line, "character": start}, "end": {"line": line, "character": end}}
    return {"insertText": "x", "range": where}


def test_a_range_touches_the_cursor_and_stays_on_its_line():
    text, cursor = "one\n🙂two\r\nthree", 6
    assert position(text, cursor, "utf-16") == {"line": 1, "character": 3}
    fitting = placed(text, cursor, item(1, 2, 5), "utf-16")
    assert fitting == Placed(5, 8, 6, "x")
    for bad in (item(0, 3, 3), item(1, 4, 5), item(1, 1, 3), item(1, 3, 6)):
        assert placed(text, cursor, bad, "utf-16") is None
