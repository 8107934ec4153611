"""Texts in blocks, against plain strings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.text import BLOCK_CHARS, LineEdit, Text, line_edit, normalised

CHARS = st.sampled_from("ab\n\n\r\r\té😋\ud83d\u0301א\f\u2028\0")
STRINGS = st.text(CHARS, max_size=60)
EDITS = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80), st.text(CHARS, max_size=20)), max_size=5)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks so small that texts of a few lines have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("umbrella_lsp.text.BLOCK_CHARS", 6)
        yield


@pytest.fixture
def usual_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbrella_lsp.text.BLOCK_CHARS", BLOCK_CHARS)


def edited(string: str, edits: list[tuple[int, int, str]]) -> Iterator[tuple[str, Text]]:
    """A text on the way through edits, each time beside the string it must be."""
    text = Text.of(string)
    yield string, text
    for one, other, new in edits:
        start, end = sorted((min(one, len(string)), min(other, len(string))))
        string, text = string[:start] + new + string[end:], text.replaced(start, end, new)
        yield string, text


def lines_of(string: str) -> list[str]:
    """Lines with their endings."""
    ends = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", string)), len(string)]
    return [string[start:end] for start, end in pairwise(ends)]


def utf8(string: str) -> bytes:
    return string.encode("utf-8", "surrogatepass")


@given(STRINGS, EDITS)
def test_an_edited_text_has_the_characters_and_lines_of_the_edited_string(
    string: str, edits: list[tuple[int, int, str]]
) -> None:
    for now, text in edited(string, edits):
        lines = lines_of(now)
        assert (str(text), len(text), text.line_count) == (now, len(now), len(lines))
        start = 0
        for number, line in enumerate(lines):
            bare = line.rstrip("\r\n")
            assert text.line_start(number) == start
            assert text.line_span(number) == (start, start + len(bare))
            assert text.line(number) == bare
            assert {text.line_of(start + column) for column in range(len(line))} <= {number}
            start += len(line)
        assert text.line_of(len(now)) == len(lines) - 1
        assert text.line_start(len(lines)) == len(now)


@given(STRINGS, EDITS)
def test_blocks_are_whole_lines_and_no_crlf_lies_across_two(
    string: str, edits: list[tuple[int, int, str]]
) -> None:
    for _, text in edited(string, edits):
        blocks = text.blocks
        assert all(blocks) or blocks == ("",)
        for block, following in pairwise(blocks):
            assert block.endswith(("\n", "\r"))
            assert not (block.endswith("\r") and following.startswith("\n"))


@given(STRINGS, EDITS, st.integers(-5, 90), st.integers(-5, 90))
def test_a_slice_is_what_lies_between_two_offsets(
    string: str, edits: list[tuple[int, int, str]], start: int, end: int
) -> None:
    for now, text in edited(string, edits):
        assert text.slice(start, end) == now[max(start, 0) : max(end, 0)]


@given(STRINGS, EDITS)
def test_digests_and_equality_know_the_content_and_not_how_it_came_about(
    string: str, edits: list[tuple[int, int, str]]
) -> None:
    for now, text in edited(string, edits):
        anew = Text.of(now)
        assert (text, hash(text)) == (anew, hash(anew))
        for offset in range(len(now) + 1):
            assert text.digest_before(offset) == Text.of(now[:offset]).digest_after(0)
            assert text.digest_after(offset) == Text.of(now[offset:]).digest_after(0)


@given(STRINGS, STRINGS)
def test_digests_of_different_texts_differ(one: str, other: str) -> None:
    assert (Text.of(one).digest_after(0) == Text.of(other).digest_after(0)) == (one == other)


def test_exchanged_characters_change_a_digest_however_far_apart_they_are() -> None:
    for distance in range(1, 300):
        digests = {Text.of(f"{a}{'-' * distance}{b}").digest_after(0) for a, b in ("xy", "yx")}
        assert len(digests) == 2


@given(STRINGS, EDITS)
def test_bytes_are_those_of_the_whole_string(string: str, edits: list[tuple[int, int, str]]) -> None:
    for now, text in edited(string, edits):
        for line in range(text.line_count + 1):
            assert text.bytes_before(line) == len(utf8(now[: text.line_start(line)]))
        data, read = utf8(now), b""
        while chunk := text.read(len(read)):
            read += chunk
        assert read == data
        for byte in range(len(data)):
            chunk = text.read(byte)
            assert chunk
            assert data.startswith(chunk, byte)
        assert text.read(len(data) + 1) == b""


@given(STRINGS, EDITS)
def test_a_normalised_text_has_the_same_lines_and_can_be_encoded(
    string: str, edits: list[tuple[int, int, str]]
) -> None:
    for now, text in edited(string, edits):
        normal = text.normalised()
        assert str(normal) == normalised(now)
        assert "\r" not in str(normal)
        assert str(normal).encode().decode() == str(normal)
        assert normal.line_count == text.line_count
        assert normal.normalised() is normal
        assert (normal is text) == (normalised(now) == now)


def test_what_is_normal_has_line_feeds_and_no_lone_surrogates() -> None:
    assert normalised("a\r\nb\rc\n\ud83dd").encode() == "a\nb\nc\n\N{REPLACEMENT CHARACTER}d".encode()


@given(STRINGS, EDITS)
def test_a_line_edit_makes_the_new_lines_from_the_old(string: str, edits: list[tuple[int, int, str]]) -> None:
    before, old = string, Text.of(string)
    for now, new in edited(string, edits):
        for made in (new, Text.of(now)):
            edit = line_edit(old, made)
            lines, changed = lines_of(before), lines_of(now)
            if edit is None:
                assert now == before
            else:
                assert lines != changed
                kept = lines[: edit.first], lines[edit.old_end :]
                assert kept[0] + changed[edit.first : edit.new_end] + kept[1] == changed
        before, old = now, new


@pytest.mark.parametrize(
    ("old", "new", "edit"),
    [
        ("a\nb\nc\n", "a\nB\nc\n", LineEdit(1, 2, 2)),
        ("a\nb\nc\n", "a\nb\nb2\nc\n", LineEdit(2, 2, 3)),
        ("a\nb\nc\n", "a\nc\n", LineEdit(1, 2, 1)),
        ("a\n", "a", LineEdit(0, 2, 1)),
        ("a\n", "a\nb", LineEdit(1, 2, 2)),
        ("a\r\n", "a\n", LineEdit(0, 1, 1)),
        ("", "a", LineEdit(0, 1, 1)),
    ],
)
def test_a_line_edit_names_no_more_lines_than_differ(old: str, new: str, edit: LineEdit) -> None:
    assert line_edit(Text.of(old), Text.of(new)) == edit


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (2, 1), (0, 4)])
def test_what_is_not_in_the_text_cannot_be_replaced(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="in a text of 3 characters"):
        Text.of("abc").replaced(start, end, "x")


def test_a_text_does_not_show_itself_in_a_log() -> None:
    assert repr(Text.of("secret = 1\n")) == "<Text of 2 lines>"


@pytest.mark.usefixtures("usual_blocks")
def test_a_key_in_a_long_file_touches_a_block_or_two() -> None:
    text = Text.of("".join(f"    value_{number} = compute({number})\n" for number in range(50_000)))
    assert len(text.blocks) > 300
    at = text.line_span(25_000)[1]
    for number, new in enumerate("typed along\n    here"):
        after = text.replaced(at + number, at + number, new)
        kept = {id(block) for block in text.blocks} & {id(block) for block in after.blocks}
        assert len(kept) >= len(text.blocks) - 2
        edit = line_edit(text.normalised(), after.normalised())
        assert edit is not None
        assert max(edit.old_end, edit.new_end) - edit.first <= 2
        text = after


@pytest.mark.usefixtures("usual_blocks")
def test_blocks_stay_of_a_size_however_a_text_is_written() -> None:
    text = Text.of("")
    for _ in range(3_000):
        text = text.replaced(len(text), len(text), "some_name = 1\n")
    sizes = [len(block) for block in text.blocks]
    assert min(sizes[:-1]) >= BLOCK_CHARS // 2
    assert max(sizes) <= 2 * BLOCK_CHARS
    while len(text) > 1_000:
        text = text.replaced(500, 1_000, "")
    assert len(text.blocks) <= 2


@pytest.mark.usefixtures("usual_blocks")
def test_a_long_line_is_a_block_and_its_neighbours_stay_small() -> None:
    long = "x" * 100_000 + "\r\n"
    text = Text.of("a = 1\r\n" * 2_000 + long + "b = 2\r\n" * 2_000)
    assert long in text.blocks
    assert max(len(block) for block in text.blocks if block != long) <= 2 * BLOCK_CHARS
