"""What the engine is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Segment
from tests.umbrella_lsp.cursor import at_cursor, context_at
from umbrella_lsp.context import (
    MAX_PREFIX_CHARS,
    MAX_SUFFIX_CHARS,
    PREFIX_STEP_CHARS,
    build_context,
    shown_suffix,
    window_start,
)
from umbrella_lsp.index import SymbolIndex, symbols_of
from umbrella_lsp.syntax import outline


def by_kind(segments: tuple[Segment, ...], kind: str) -> list[Segment]:
    return [segment for segment in segments if segment.kind == kind]


def an_index(**files: str) -> SymbolIndex:
    index = SymbolIndex()
    for name, source in files.items():
        index.update(name, symbols_of(f"{name}.py", source, "python"))
    return index


def test_a_short_file_is_shown_whole_with_line_feeds() -> None:
    context = context_at("import os\r\n\r\nx = ‸os\r\n")
    assert (context.prefix, context.suffix) == ("import os\n\nx = ", "os\n")
    assert (context.before, context.after) == ("x = ", "os")
    assert [s.kind for s in context.segments] == ["prefix", "suffix"]
    assert {(s.path, s.language) for s in context.segments} == {("app.py", "python")}


def test_the_same_arguments_give_the_same_context() -> None:
    index = an_index(shelf="class Shelf:\n    pass\n")
    marked = "from shelf import Shelf\nx = Shelf(‸)\n"
    assert context_at(marked, index) == context_at(marked, index)


def test_a_long_file_is_shown_from_a_lines_start_with_its_imports_and_enclosing_headers() -> None:
    filler = "".join(f"        self.value_{n} = {n}\n" for n in range(1000))
    context = context_at(f"import os\n\nclass Shelf:\n    def fill(self):\n{filler}        ‸\n")
    assert len(context.prefix) <= MAX_PREFIX_CHARS
    assert context.prefix.startswith("        self.value_")
    (scope,) = by_kind(context.segments, "definition")
    assert scope.text == "import os\nclass Shelf:\n    def fill(self):"


def test_a_long_suffix_is_cut() -> None:
    assert len(context_at("x = ‸" + "y" * 9000).suffix) == MAX_SUFFIX_CHARS


@given(st.integers(0, 50_000), st.integers(1, 200))
def test_typing_moves_the_window_at_most_once(offset: int, typed: int) -> None:
    text = "0123456789\n" * 5000
    starts = {window_start(text, offset + n) for n in range(typed)}
    assert len(starts) <= 2
    for start in starts:
        assert start == 0 or text[start - 1] == "\n"
        assert offset - start <= MAX_PREFIX_CHARS
    assert offset < MAX_PREFIX_CHARS or offset - min(starts) >= MAX_PREFIX_CHARS - PREFIX_STEP_CHARS - 12


def test_a_window_into_one_endless_line_begins_within_it() -> None:
    text = "x" * 100_000
    assert 0 < len(text) - window_start(text, len(text)) <= MAX_PREFIX_CHARS


def test_definitions_of_names_near_the_cursor_come_from_other_files() -> None:
    index = an_index(
        shelf="class Shelf:\n    def add(self, book): ...\n",
        far="def unrelated(): ...\n",
    )
    context = context_at("from shelf import Shelf\n\nshelf = Shelf()\nshelf.‸\n", index)
    (definition,) = by_kind(context.segments, "definition")
    assert (definition.path, definition.stability) == ("shelf.py", "volatile")
    assert definition.text.startswith("class Shelf:")


def test_a_name_that_is_still_being_typed_asks_for_nothing() -> None:
    assert not by_kind(context_at("x = Shelf‸\n", an_index(s="class Shelf: ...")).segments, "definition")


def test_a_name_with_several_definitions_and_ones_of_this_file_ask_for_nothing() -> None:
    index = an_index(a="def fill(): ...", b="def fill(): ...", app="def own(): ...")
    assert not by_kind(context_at("fill(own(‸\n", index).segments, "definition")


def test_ranks_put_the_cursor_first() -> None:
    index = an_index(a="def one(): ...", b="def two(): ...")
    segments = context_at("one(two(‸))\n", index).segments
    assert [s.rank for s in segments] == sorted((s.rank for s in segments), reverse=True)
    assert [s.path for s in segments] == ["app.py", "app.py", "b.py", "a.py"]


@pytest.mark.parametrize(
    ("suffix", "shown_before", "shown"),
    [
        ("lo)\nnext\n", "hello)\nnext\n", "hello)\nnext\n"),
        (")\nnext\n", "\nnext\n", "\nnext\n"),
        ('")]\nnext\n', "\nnext\n", "\nnext\n"),
        ("next\n", "one\nnext\n", "next\n"),
        ("other\n", "one\n", "other\n"),
        ("one\n", "", "one\n"),
        ("", "", ""),
    ],
    ids=["eaten", "closer", "closers", "another line", "another place", "first time", "nothing"],
)
def test_the_suffix_stays_as_it_was_while_its_line_is_typed(
    suffix: str, shown_before: str, shown: str
) -> None:
    assert shown_suffix(suffix, shown_before) == shown


def test_a_suffix_longer_than_its_window_stays_too() -> None:
    text = "ab)" + "\nline" * 1000
    before = text[:MAX_SUFFIX_CHARS]
    assert shown_suffix(text[2 : MAX_SUFFIX_CHARS + 2], before) == before


def test_the_segment_may_be_stale_but_the_suffix_itself_never_is() -> None:
    document, offset = at_cursor("f(a‸)\n")
    context = build_context(
        document, offset, SymbolIndex(), path="app.py", outline=outline, suffix_shown_before="\n"
    )
    assert context.suffix == ")\n"
    assert by_kind(context.segments, "suffix")[0].text == "\n"
