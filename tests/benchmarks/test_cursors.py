from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cursors import (
    BLOCK_LINES,
    POSITIONS,
    PREFIX_LINES,
    SUFFIX_LINES,
    Cursor,
    block_at,
    bracketed,
    cursors,
    line_cursors,
    read_prompts,
)
from engine.training.corpus import SourceFile
from umbrella_lsp.document import indent_of

TEXTS = [Path(__file__).read_text(encoding="utf-8")] + [
    f"import a{i}\n\n\nclass C{i}:\n    x = {i}\n\n    def f(self, y):\n        if y:\n"
    f"            return [y, {i}]\n\n        # nothing\n        return g(y)\n"
    for i in range(3)
]
FILES = [SourceFile("p", f"p/m{i}.py", text) for i, text in enumerate(TEXTS)]
TEXT_OF = {file.path: file.text for file in FILES}

seeds = st.integers(0, 10**6)


def at(position: str, seed: int) -> list[Cursor]:
    return [cursor for cursor in cursors(FILES, 5, seed) if cursor.position == position]


@given(seeds)
def test_what_a_cursor_expects_makes_the_file_whole_again(seed: int):
    places = cursors(FILES, 4, seed)
    assert [sum(place.position == position for place in places) for position in POSITIONS] == [4] * 4
    for place in places:
        assert place.filled(place.expected) == TEXT_OF[place.path]
        assert place.expected


@given(seeds)
def test_no_more_lines_are_shown_than_the_context_has(seed: int):
    for place in cursors(FILES, 4, seed):
        assert place.prefix.count("\n") <= PREFIX_LINES
        assert place.suffix.count("\n") <= SUFFIX_LINES
        assert not place.head or place.head.endswith("\n")


@given(seeds)
def test_on_a_next_line_only_its_indentation_stands_and_all_of_it_is_expected(seed: int):
    for place in at("next_line", seed):
        assert not place.before.strip()
        assert not place.expected[0].isspace()
        assert not place.after
        assert "\n" not in place.expected


@given(seeds)
def test_at_a_line_end_some_of_the_line_stands_and_its_rest_is_expected(seed: int):
    for place in at("line_end", seed):
        assert place.before.strip()
        assert not place.after
        assert "\n" not in place.expected


@given(seeds)
def test_between_text_the_rest_of_what_a_pair_of_brackets_holds_is_expected(seed: int):
    for place in at("between_text", seed):
        start, stop = len(place.before), len(place.before + place.expected)
        pairs = bracketed(place.before + place.expected + place.after)
        assert place.expected.strip()
        assert any(start in pair and pair.stop == stop for pair in pairs)


@given(seeds)
def test_a_block_ends_before_the_first_line_indented_less_than_the_cursor(seed: int):
    for place in at("block", seed):
        column = len(place.before)
        assert column
        assert not place.before.strip()
        first, *others = place.expected.split("\n")
        assert first.strip()
        assert len(others) < BLOCK_LINES
        assert all(indent_of(line) >= column for line in others if line.strip())
        below = [line for line in (place.suffix + place.tail).split("\n") if line.strip()]
        assert not below or indent_of(below[0]) < column


@given(seeds)
def test_the_same_seed_gives_the_same_cursors_and_fewer_are_the_first_of_more(seed: int):
    more, fewer = cursors(FILES, 5, seed), cursors(FILES, 2, seed)
    for position in POSITIONS:
        assert [c for c in fewer if c.position == position] == [c for c in more if c.position == position][:2]


def test_lines_are_drawn_as_for_every_figure_published_so_far():
    text = "\n".join(f"name_{i} = value_{i} + {i}" for i in range(40)) + "\n"
    drawn = islice(line_cursors([SourceFile("p", "m.py", text)], 0), 6)
    assert [(c.position, c.before, c.expected) for c in drawn] == [
        ("next_line", "", "name_26 = value_26 + 26"),
        ("line_end", "name_16 = value_1", "6 + 16"),
        ("next_line", "", "name_25 = value_25 + 25"),
        ("line_end", "name_30 = va", "lue_30 + 30"),
        ("next_line", "", "name_32 = value_32 + 32"),
        ("line_end", "name_", "18 = value_18 + 18"),
    ]


def test_cursors_need_files():
    with pytest.raises(ValueError, match="no files"):
        cursors([], 1, 0)


@pytest.mark.parametrize(
    ("line", "inside"),
    [
        ("f(a, [b])", ["b", "a, [b]"]),
        ("f()", [""]),
        ("f(a", []),
        ("f(a]", []),
        ("a) + {b}", ["b"]),
    ],
)
def test_brackets_are_paired_with_their_own_kind(line: str, inside: list[str]):
    assert [line[found.start : found.stop] for found in bracketed(line)] == inside


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("a\n    b\n\n    c\n\nd\n", "a\n    b\n\n    c"),
        ("a\n        b\n  c\n", "a\n        b"),
        ("a\n\n", "a"),
    ],
)
def test_a_block_holds_deeper_and_blank_lines_but_none_at_its_end(text: str, block: str):
    assert block_at(text, 4) == block


def prompts(folder: Path, *lines: object) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected", "position"),
    [
        ("def f():\n    ", "\n", "return 1", "next_line"),
        ("x = ", "", "1", "line_end"),
        ("f(", ")\n", "x", "between_text"),
        ("def f():\n    ", "", "x = 1\n    return x", "block"),
    ],
)
def test_the_position_of_a_users_prompt_is_told_from_its_text(
    prefix: str, suffix: str, expected: str, position: str, tmp_path: Path
):
    prompt = {"prefix": prefix, "suffix": suffix, "expected": expected, "path": "a.py", "task": 7}
    (found,) = read_prompts(prompts(tmp_path, prompt, ""))
    assert found == Cursor(position, prefix, suffix, expected, "a.py")  # pyright: ignore[reportArgumentType]


def test_a_line_separator_within_a_prompt_is_no_end_of_a_line(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prefix": "\u2028", "suffix": "", "expected": "x"}\n', encoding="utf-8")
    assert read_prompts(path)[0].prefix == "\u2028"


GOOD = {"prefix": "a", "suffix": "", "expected": "b"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: Expecting property name"),
        ("[]", "line 2: a prompt is an object"),
        ({"prefix": "a", "suffix": "b"}, "line 2: expected is missing"),
        ({**GOOD, "expected": 3}, "line 2: expected must be str, not int"),
        ({**GOOD, "expected": " \n"}, "line 2: expected must hold some text"),
    ],
)
def test_a_bad_line_of_a_prompts_file_is_named_with_what_is_wrong(line: object, problem: str, tmp_path: Path):
    with pytest.raises(ValueError, match=problem):
        read_prompts(prompts(tmp_path, GOOD, line))


def test_a_prompts_file_without_prompts_or_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(prompts(tmp_path, ""))
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
