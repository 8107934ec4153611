"""Documents and positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.document import (
    Change,
    Document,
    DocumentStore,
    Edit,
    Position,
    PositionEncoding,
    language_of,
    path_of,
)
from umbrella_lsp.text import Text

ENCODINGS: tuple[PositionEncoding, ...] = ("utf-8", "utf-16", "utf-32")
TEXTS = st.text(st.sampled_from("ab \n\r\té€😋\ud83d\u0301א\f\u2028"), max_size=40)


def at_character_start(text: str, offset: int) -> bool:
    return text[offset - 1 : offset + 1] != "\r\n"


def code_units(text: str, encoding: PositionEncoding) -> int:
    codec, width = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}[encoding]
    return len(text.encode(codec, "surrogatepass")) // width


def opened(text: str, version: int | None = 1) -> DocumentStore:
    store = DocumentStore("utf-16")
    store.open(Document.of("file:///a.py", text, version=version))
    return store


def changed(text: str, changes: list[Change]) -> tuple[str, tuple[Edit, ...]]:
    """A text after changes, and what they came to."""
    store = opened(text)
    edits = store.change("file:///a.py", 2, changes)
    document = store.get("file:///a.py")
    assert document is not None
    return document.text, edits


@given(TEXTS, st.data(), st.sampled_from(ENCODINGS))
def test_an_offset_survives_the_way_to_a_position_and_back(
    text: str, data: st.DataObject, encoding: PositionEncoding
) -> None:
    offset = data.draw(st.integers(0, len(text)).filter(lambda o: at_character_start(text, o)))
    document = Document.of("file:///a.py", text)
    assert document.offset_at(document.position_at(offset, encoding), encoding) == offset


@given(TEXTS, st.data(), st.sampled_from(ENCODINGS))
def test_a_position_counts_code_units_since_the_last_line_end(
    text: str, data: st.DataObject, encoding: PositionEncoding
) -> None:
    offset = data.draw(st.integers(0, len(text)).filter(lambda o: at_character_start(text, o)))
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    position = Document.of("file:///a.py", text).position_at(offset, encoding)
    assert position.line == before.count("\n")
    assert position.character == code_units(before.rsplit("\n", 1)[-1], encoding)


@given(TEXTS, st.integers(0, 10), st.integers(0, 60), st.sampled_from(ENCODINGS))
def test_any_position_means_some_offset_of_the_text(
    text: str, line: int, character: int, encoding: PositionEncoding
) -> None:
    assert 0 <= Document.of("file:///a.py", text).offset_at(Position(line, character), encoding) <= len(text)


def offset_by_walking(text: str, position: Position, encoding: PositionEncoding) -> int:
    """Where a position is, found by looking at the whole text a character at a time."""
    line, units, found = 0, 0, 0
    for offset in range(len(text) + 1):
        if (line, units) <= (position.line, max(position.character, 0)):
            found = offset
        at_end = text[offset : offset + 2] == "\r\n"
        if at_end or text[offset : offset + 1] in ("\r", "\n"):
            if line == position.line:
                return found
            if at_end:
                continue
            line, units = line + 1, 0
        else:
            units += code_units(text[offset : offset + 1], encoding)
    return found


POSITIONS = st.builds(Position, st.integers(0, 12), st.integers(0, 12))
CHANGES = st.builds(Change, TEXTS, POSITIONS, POSITIONS) | st.builds(Change, TEXTS)


@given(TEXTS, st.lists(st.lists(CHANGES, max_size=3), max_size=4), st.sampled_from(ENCODINGS))
def test_the_text_is_what_a_reference_makes_of_any_changes(
    text: str, notifications: list[list[Change]], encoding: PositionEncoding
) -> None:
    store = DocumentStore(encoding)
    store.open(Document.of("file:///a.py", text, version=0))
    for version, changes in enumerate(notifications, 1):
        edits = store.change("file:///a.py", version, changes)
        assert len(edits) == len(changes)
        for edit, change in zip(edits, changes, strict=True):
            start, end = 0, len(text)
            if change.start and change.end:
                places = sorted((change.start, change.end), key=lambda place: (place.line, place.character))
                start, end = (offset_by_walking(text, place, encoding) for place in places)
            assert edit == Edit(start, end, change.text)
            text = text[:start] + change.text + text[end:]
        document = store.get("file:///a.py")
        assert document is not None
        assert (document.text, document.version) == (text, version)
        assert document.content.line_count == Text.of(text).line_count


def test_a_form_feed_ends_no_line() -> None:
    document = Document.of("file:///a.py", "a\fb\nc")
    assert document.position_at(2, "utf-16") == Position(0, 2)
    assert document.offset_at(Position(1, 0), "utf-16") == 4


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_position_inside_a_character_means_its_start(encoding: PositionEncoding) -> None:
    document = Document.of("file:///a.py", "x😋y")
    units = code_units("😋", encoding)
    assert {document.offset_at(Position(0, 1 + unit), encoding) for unit in range(units)} == {1}
    assert document.offset_at(Position(0, 1 + units), encoding) == 2


def test_a_column_past_the_end_of_a_line_means_its_end() -> None:
    document = Document.of("file:///a.py", "ab\r\ncd")
    assert document.offset_at(Position(0, 99), "utf-16") == 2
    assert document.offset_at(Position(1, 99), "utf-16") == len(document.text)
    assert document.offset_at(Position(9, 0), "utf-16") == len(document.text)


def test_several_changes_build_on_each_other() -> None:
    changes = [Change("two\n", Position(1, 0), Position(1, 0)), Change("2", Position(1, 0), Position(1, 3))]
    assert changed("one\n", changes) == ("one\n2\n", (Edit(4, 4, "two\n"), Edit(4, 7, "2")))


def test_a_change_without_a_range_replaces_everything() -> None:
    assert changed("old", [Change("new")]) == ("new", (Edit(0, 3, "new"),))


def test_a_range_that_runs_backwards_or_past_the_end_is_taken_for_what_it_can_mean() -> None:
    assert changed("abc", [Change("x", Position(0, 2), Position(0, 1))])[0] == "axc"
    assert changed("abc", [Change("x", Position(7, 9), Position(0, 99))])[0] == "abcx"
    assert changed("abc", [Change("x", Position(-1, -1), Position(0, -2))])[0] == "xabc"


def test_line_endings_are_taken_apart_and_put_together() -> None:
    line_feed = Change("", Position(0, 1), Position(1, 0))
    assert changed("a\r\nb", [line_feed, Change("\r", Position(0, 1), Position(0, 1))])[0] == "a\rb"
    cr_lf = [Change("\r", Position(0, 1), Position(0, 1)), Change("\n", Position(1, 0), Position(1, 0))]
    store = opened("ab")
    store.change("file:///a.py", 2, cr_lf)
    document = store.get("file:///a.py")
    assert document is not None
    assert (document.text, document.content.line_count) == ("a\r\nb", 2)


def test_versions_out_of_order_are_applied_and_noted_without_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = opened("one", version=5)
    assert store.change("file:///a.py", 3, [Change("secret")])
    document = store.get("file:///a.py")
    assert document is not None
    assert (document.text, document.version) == ("secret", 3)
    assert [record.getMessage() for record in caplog.records] == ["a document went from version 5 back to 3"]


def test_a_snapshot_stays_as_it_was_when_the_document_changes() -> None:
    store = DocumentStore("utf-8")
    store.open(Document.of("file:///a.py", "old"))
    snapshot = store.get("file:///a.py")
    store.change("file:///a.py", 2, [Change("new")])
    store.close("file:///a.py")
    assert snapshot is not None
    assert snapshot.text == "old"
    assert store.get("file:///a.py") is None


def test_changes_to_a_document_that_is_not_open_are_ignored_and_noted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = DocumentStore("utf-8")
    assert store.change("file:///a.py", 2, [Change("new")]) == ()
    assert store.get("file:///a.py") is None
    assert "not open" in caplog.text
    assert "new" not in caplog.text


@pytest.mark.parametrize(
    ("text", "ending"), [("a\r\nb\n", "\r\n"), ("a\nb\r\n", "\n"), ("a\rb", "\r"), ("a", "\n")]
)
def test_the_first_line_says_how_lines_end(text: str, ending: str) -> None:
    assert Document.of("file:///a.py", text).line_ending == ending


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///home/a%20b/c.py", "/home/a b/c.py"),
        ("file:///C:/x.py", "C:/x.py"),
        ("file:///c%3A/x.py", "c:/x.py"),
        ("untitled:Untitled-1", "Untitled-1"),
    ],
)
def test_a_uri_names_a_path(uri: str, path: str) -> None:
    assert path_of(uri) == path


def test_a_file_name_suggests_a_language() -> None:
    assert (language_of("a/B.PY"), language_of("Makefile")) == ("python", "")
