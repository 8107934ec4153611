"""Documents and positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.document import (
    Change,
    Document,
    DocumentStore,
    Position,
    PositionEncoding,
    language_of,
    normalised,
    path_of,
)

ENCODINGS: tuple[PositionEncoding, ...] = ("utf-8", "utf-16", "utf-32")
TEXTS = st.text(st.sampled_from("ab \n\r\té€😋\f\u2028"), max_size=40)


def at_character_start(text: str, offset: int) -> bool:
    return text[offset - 1 : offset + 1] != "\r\n"


def code_units(text: str, encoding: PositionEncoding) -> int:
    width = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
    return (
        len(text.encode({"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}[encoding])) // width
    )


@given(TEXTS, st.data(), st.sampled_from(ENCODINGS))
def test_an_offset_survives_the_way_to_a_position_and_back(
    text: str, data: st.DataObject, encoding: PositionEncoding
) -> None:
    offset = data.draw(st.integers(0, len(text)).filter(lambda o: at_character_start(text, o)))
    document = Document("file:///a.py", text)
    assert document.offset_at(document.position_at(offset, encoding), encoding) == offset


@given(TEXTS, st.data(), st.sampled_from(ENCODINGS))
def test_a_position_counts_code_units_since_the_last_line_end(
    text: str, data: st.DataObject, encoding: PositionEncoding
) -> None:
    offset = data.draw(st.integers(0, len(text)).filter(lambda o: at_character_start(text, o)))
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    position = Document("file:///a.py", text).position_at(offset, encoding)
    assert position.line == before.count("\n")
    assert position.character == code_units(before.rsplit("\n", 1)[-1], encoding)


@given(TEXTS, st.integers(0, 10), st.integers(0, 60), st.sampled_from(ENCODINGS))
def test_any_position_means_some_offset_of_the_text(
    text: str, line: int, character: int, encoding: PositionEncoding
) -> None:
    assert 0 <= Document("file:///a.py", text).offset_at(Position(line, character), encoding) <= len(text)


@given(TEXTS, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), TEXTS), max_size=4), st.data())
def test_incremental_changes_give_the_text_the_client_has(
    text: str, edits: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    encoding = data.draw(st.sampled_from(ENCODINGS))
    store = DocumentStore(encoding)
    store.open(Document("file:///a.py", text, version=0))
    for version, (one, other, new) in enumerate(edits, 1):
        start, end = sorted((min(one, len(text)), min(other, len(text))))
        if not (at_character_start(text, start) and at_character_start(text, end)):
            continue
        now = Document("file:///a.py", text)
        change = Change(new, now.position_at(start, encoding), now.position_at(end, encoding))
        store.change("file:///a.py", version, [change])
        text = text[:start] + new + text[end:]
        document = store.get("file:///a.py")
        assert document is not None
        assert (document.text, document.version) == (text, version)


def test_a_form_feed_ends_no_line() -> None:
    document = Document("file:///a.py", "a\fb\nc")
    assert document.position_at(2, "utf-16") == Position(0, 2)
    assert document.offset_at(Position(1, 0), "utf-16") == 4


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_position_inside_a_character_means_its_start(encoding: PositionEncoding) -> None:
    document = Document("file:///a.py", "x😋y")
    units = code_units("😋", encoding)
    assert {document.offset_at(Position(0, 1 + unit), encoding) for unit in range(units)} == {1}
    assert document.offset_at(Position(0, 1 + units), encoding) == 2


def test_a_column_past_the_end_of_a_line_means_its_end() -> None:
    document = Document("file:///a.py", "ab\r\ncd")
    assert document.offset_at(Position(0, 99), "utf-16") == 2
    assert document.offset_at(Position(1, 99), "utf-16") == len(document.text)
    assert document.offset_at(Position(9, 0), "utf-16") == len(document.text)


def test_several_changes_build_on_each_other() -> None:
    document = Document("file:///a.py", "one\n")
    changes = [Change("two\n", Position(1, 0), Position(1, 0)), Change("2", Position(1, 0), Position(1, 3))]
    assert document.changed(changes, 2, "utf-8").text == "one\n2\n"


def test_a_change_without_a_range_replaces_everything() -> None:
    assert Document("file:///a.py", "old").changed([Change("new")], 2, "utf-8").text == "new"


def test_a_snapshot_stays_as_it_was_when_the_document_changes() -> None:
    store = DocumentStore("utf-8")
    store.open(Document("file:///a.py", "old"))
    snapshot = store.get("file:///a.py")
    store.change("file:///a.py", 2, [Change("new")])
    store.close("file:///a.py")
    assert snapshot is not None
    assert snapshot.text == "old"
    assert store.get("file:///a.py") is None


def test_changes_to_a_document_that_is_not_open_are_ignored() -> None:
    store = DocumentStore("utf-8")
    store.change("file:///a.py", 2, [Change("new")])
    assert store.get("file:///a.py") is None


@pytest.mark.parametrize(
    ("text", "ending"), [("a\r\nb\n", "\r\n"), ("a\nb\r\n", "\n"), ("a\rb", "\r"), ("a", "\n")]
)
def test_the_first_line_says_how_lines_end(text: str, ending: str) -> None:
    assert Document("file:///a.py", text).line_ending == ending


def test_what_goes_to_the_engine_has_line_feeds_and_no_lone_surrogates() -> None:
    assert normalised("a\r\nb\rc\n\ud83dd").encode() == "a\nb\nc\n\N{REPLACEMENT CHARACTER}d".encode()


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
