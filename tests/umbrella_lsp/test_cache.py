"""Answers without an engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.umbrella_lsp.cursor import at_cursor
from umbrella_lsp.cache import MAX_ENTRIES, CompletionCache
from umbrella_lsp.document import Document


def cached(marked: str, text: str) -> CompletionCache:
    cache = CompletionCache()
    cache.put(*at_cursor(marked), text)
    return cache


@given(st.integers(0, 12))
def test_what_is_left_follows_what_was_typed_of_it(typed: int) -> None:
    text = "name + other"
    cache = cached("x = ‸\n", text)
    assert cache.get(*at_cursor(f"x = {text[:typed]}‸\n")) == text[typed:]


def test_typing_something_else_is_not_answered() -> None:
    cache = cached("x = ‸\n", "name")
    assert cache.get(*at_cursor("x = no‸\n")) == ""


def test_text_that_has_changed_on_either_side_is_not_answered() -> None:
    cache = cached("x = ‸\ny\n", "name")
    assert cache.get(*at_cursor("z = ‸\ny\n")) == ""
    assert cache.get(*at_cursor("x = ‸\nz\n")) == ""
    assert cache.get(*at_cursor("x = n‸ \ny\n")) == ""


def test_another_document_with_the_same_text_is_not_answered() -> None:
    document, offset = at_cursor("x = ‸\n")
    other = Document("file:///home/someone/other.py", document.text, "python")
    assert cached("x = ‸\n", "name").get(other, offset) == ""


def test_deleting_what_was_typed_finds_the_suggestion_again() -> None:
    cache = cached("x = ‸\n", "name")
    cache.put(*at_cursor("x = nob‸\n"), "ody")
    assert cache.get(*at_cursor("x = n‸\n")) == "ame"
    assert cache.get(*at_cursor("x = ‸\n")) == "name"


def test_closers_an_editor_adds_are_not_given_twice() -> None:
    cache = cached("print‸\n", "(name)")
    assert cache.get(*at_cursor("print(‸)\n")) == "name"
    assert cache.get(*at_cursor("print(na‸)\n")) == "me"


def test_typing_along_works_over_windows_line_ends() -> None:
    cache = cached("if x:‸\r\n", "\n    pass")
    assert cache.get(*at_cursor("if x:\r\n    pa‸\r\n")) == "ss"


def test_the_latest_suggestion_wins() -> None:
    cache = cached("x = ‸\n", "old")
    cache.put(*at_cursor("x = ‸\n"), "new")
    assert cache.get(*at_cursor("x = ‸\n")) == "new"


def test_only_so_many_are_kept() -> None:
    cache = cached("first = ‸\n", "name")
    for number in range(MAX_ENTRIES):
        cache.put(*at_cursor(f"x{number} = ‸\n"), "name")
    assert cache.get(*at_cursor("first = ‸\n")) == ""
    assert cache.get(*at_cursor("x0 = ‸\n")) == "name"


def test_clearing_forgets_everything() -> None:
    cache = cached("x = ‸\n", "name")
    cache.clear()
    assert cache.get(*at_cursor("x = ‸\n")) == ""
