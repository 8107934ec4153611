"""The workspace's symbols."""

from __future__ import annotations

from pathlib import Path

from umbrella_lsp.index import MAX_EXCERPT_CHARS, MAX_EXCERPT_LINES, SymbolIndex, symbols_of

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


def names(index: SymbolIndex, *asked: str) -> list[str]:
    return [symbol.path for name in asked for symbol in index.lookup(name)]


def test_a_file_offers_its_top_level_and_its_classes_methods() -> None:
    found = symbols_of("lib/shelf.py", SOURCE, "python")
    assert [symbol.name for symbol in found] == ["LIMIT", "Shelf", "add", "fill"]
    assert found[-1].text == 'def fill(shelf):\n    shelf.add("x")'
    assert {symbol.path for symbol in found} == {"lib/shelf.py"}


def test_an_excerpt_is_the_beginning_in_whole_lines() -> None:
    source = "def long():\n" + "    value = 'some text that is of some length'\n" * 40
    (symbol,) = symbols_of("a.py", source, "python")
    assert len(symbol.text) < MAX_EXCERPT_CHARS
    assert symbol.text.count("\n") < MAX_EXCERPT_LINES
    assert symbol.text.endswith("length'")


def test_updating_a_file_forgets_what_it_said_before() -> None:
    index = SymbolIndex()
    index.update("a", symbols_of("a.py", "def old(): pass", "python"))
    index.update("b", symbols_of("b.py", "def old(): pass\ndef kept(): pass", "python"))
    index.update("a", symbols_of("a.py", "def new(): pass", "python"))
    assert names(index, "old", "new", "kept") == ["b.py", "a.py", "b.py"]
    assert index.size == 3


def test_removing_a_directory_forgets_its_files_and_no_other() -> None:
    index = SymbolIndex()
    inside, beside = str(Path("lib/a.py")), str(Path("library.py"))
    index.update(inside, symbols_of("a.py", "def f(): pass", "python"))
    index.update(beside, symbols_of("b.py", "def f(): pass", "python"))
    index.remove_under("lib")
    assert names(index, "f") == ["b.py"]
    index.remove_under(beside)
    assert index.size == 0
    assert index.lookup("f") == ()
