"""What a file offers to others."""

from __future__ import annotations

from umbrella_lsp.index import Symbol
from umbrella_lsp.syntax.tree import outline
from umbrella_lsp.workspace.symbols import (
    MAX_EXCERPT_CHARS,
    MAX_EXCERPT_LINES,
    MAX_SYMBOLS_IN_FILE,
    symbols_of,
)

SOURCE = """\
LIMIT = 3

class Shelf:
    def __init__(self):
        self.books = []

    def add(self, book):
        def helper():
            pass
        self.books.append(book)

def fill(shelf):
    shelf.add("x")
"""


def symbols_in(source: str, language: str = "python") -> tuple[Symbol, ...]:
    return symbols_of("lib/shelf", source, language, outline(source, language).definitions)


def test_a_file_offers_its_top_level_and_its_classes_methods() -> None:
    found = symbols_in(SOURCE)
    assert [(symbol.name, symbol.kind) for symbol in found] == [
        ("LIMIT", "variable"),
        ("Shelf", "class"),
        ("add", "function"),
        ("fill", "function"),
    ]
    assert found[-1].text == 'def fill(shelf):\n    shelf.add("x")'
    assert {(symbol.path, symbol.language) for symbol in found} == {("lib/shelf", "python")}


def test_modules_inside_a_file_offer_what_is_in_them() -> None:
    source = "pub mod shelf {\n    pub fn fill() { fn inner() {} }\n}\n"
    assert [symbol.name for symbol in symbols_in(source, "rust")] == ["shelf", "fill"]


def test_an_excerpt_is_the_beginning_in_whole_lines() -> None:
    (symbol,) = symbols_in("def long():\n" + "    value = 'some text that is of some length'\n" * 40)
    assert len(symbol.text) < MAX_EXCERPT_CHARS
    assert symbol.text.count("\n") < MAX_EXCERPT_LINES
    assert symbol.text.endswith("length'")


def test_a_file_of_nothing_but_definitions_is_not_taken_whole() -> None:
    source = "".join(f"name{number} = {number}\n" for number in range(2 * MAX_SYMBOLS_IN_FILE))
    assert len(symbols_in(source)) == MAX_SYMBOLS_IN_FILE
