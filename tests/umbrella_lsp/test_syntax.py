"""What tree-sitter makes of Python."""

from __future__ import annotations

import pytest

from umbrella_lsp.syntax import MAX_SOURCE, Outline, block_is_complete, enclosing, outline

SOURCE = '''\
import os
from pathlib import Path

LIMIT = 3


@decorated
class Shelf(Base):
    """Holds books."""

    size: int

    def add(self, book: str,
            where: int = 0) -> None:
        self.books.append(book)

    async def clear(self):
        def inner():
            pass
        return inner


def empty_shelf() -> Shelf:
    return Shelf()
'''


def test_an_outline_names_imports_and_definitions_in_order() -> None:
    found = outline(SOURCE, "python")
    assert found.imports == ("import os", "from pathlib import Path")
    assert [(d.kind, d.name, d.line, d.column) for d in found.definitions] == [
        ("variable", "LIMIT", 3, 0),
        ("class", "Shelf", 7, 0),
        ("function", "add", 12, 4),
        ("function", "clear", 16, 4),
        ("function", "inner", 17, 8),
        ("function", "empty_shelf", 22, 0),
    ]


def test_a_header_reaches_to_the_colon_over_several_lines() -> None:
    add = next(d for d in outline(SOURCE, "python").definitions if d.name == "add")
    assert add.header == "def add(self, book: str,\n            where: int = 0) -> None:"
    assert add.end_line == 14


def test_broken_source_still_gives_what_stands_before_it() -> None:
    names = [d.name for d in outline(SOURCE + "\ndef (:\n  x = [\n", "python").definitions]
    assert "Shelf" in names
    assert "empty_shelf" in names


@pytest.mark.parametrize("source", ["", "x = 1\n" * (MAX_SOURCE // 6 + 1)])
def test_nothing_and_too_much_have_an_empty_outline(source: str) -> None:
    assert outline(source, "python") == Outline()


def test_other_languages_have_an_empty_outline() -> None:
    assert outline(SOURCE, "rust") == Outline()


def test_enclosing_definitions_are_found_by_indentation() -> None:
    head = outline(SOURCE[: SOURCE.index("        return inner")], "python")
    assert [d.name for d in enclosing(head, 8)] == ["Shelf", "clear"]
    assert [d.name for d in enclosing(head, 4)] == ["Shelf"]
    assert enclosing(head, 0) == ()


@pytest.mark.parametrize(
    ("before", "generated", "is_complete"),
    [
        ("def f():", "\n    return 1", True),
        ("def f():\n    ", "x = 1\n    return x", True),
        ("def f():\n    ", "raise ValueError('no')", True),
        ("for x in y:\n    ", "continue", True),
        ("def f():", "\n    if x:\n        return 1", False),
        ("def f():\n    ", "x = 1", False),
        ("def f():\n    ", "return (1,", False),
        ("def f():\n    ", "returned = 1", False),
        ("", "x = 1", False),
        ("def f():\n    ", "", False),
    ],
)
def test_a_block_is_complete_once_it_is_left(before: str, generated: str, is_complete: bool) -> None:
    assert block_is_complete(before + generated, len(before), "python") is is_complete


def test_blocks_are_complete_whatever_characters_stand_before_them() -> None:
    before = "name = 'é😋'\ndef f():\n    "
    assert block_is_complete(before + "return 'ü'", len(before), "python")
