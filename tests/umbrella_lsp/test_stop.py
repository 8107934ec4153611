"""How far a suggestion goes."""

from __future__ import annotations

import pytest

from engine.protocol import StopSpec
from tests.umbrella_lsp.cursor import context_at
from umbrella_lsp.postprocess import fitted
from umbrella_lsp.stop import extent, is_done

ONE_LINE = StopSpec(max_lines=1)


@pytest.mark.parametrize(
    ("marked", "spec"),
    [
        ("x = ‸\n", ONE_LINE),
        ("x = f(‸)\n", ONE_LINE),
        ("x = ‸ + 1\n", ONE_LINE),
        ("if x:‸ # why\n", ONE_LINE),
        ("    ‸x = 1\n", ONE_LINE),
        ("def f():‸\n", StopSpec(max_lines=9, min_indent=1)),
        ("class A:\n    def f(self):‸", StopSpec(max_lines=9, min_indent=5)),
        ("def f():\n    ‸\n", StopSpec(max_lines=8, min_indent=4)),
        ("def f():\n    x = 1\n    ‸\n", StopSpec(max_lines=8, min_indent=4)),
        ("def f():\n‸\n", StopSpec(max_lines=8, min_indent=1)),
        ("x = [‸\n", StopSpec(max_lines=9, min_indent=1)),
        ("import os\n‸", StopSpec(max_lines=8)),
        ("‸", StopSpec(max_lines=8)),
    ],
)
def test_blocks_get_lines_and_everything_else_the_rest_of_the_line(marked: str, spec: StopSpec) -> None:
    assert extent(context_at(marked), max_lines=8).spec == spec


@pytest.mark.parametrize(
    ("marked", "spec"),
    [
        ("x = 1‸\n", StopSpec(max_lines=9)),
        ("def f():\n    x = 1‸\n", StopSpec(max_lines=9, min_indent=4)),
        ("x = f(‸)\n", ONE_LINE),
        ("def f():‸\n", StopSpec(max_lines=9, min_indent=1)),
    ],
)
def test_who_asks_at_a_lines_end_may_get_the_lines_that_follow(marked: str, spec: StopSpec) -> None:
    assert extent(context_at(marked), max_lines=8, invoked=True).spec == spec


def test_who_asks_on_an_unfinished_line_gets_its_rest_and_no_more() -> None:
    context = context_at("x = ‸\n")
    wanted = extent(context, max_lines=8, invoked=True)
    assert is_done(context, wanted, "1\ny = 2\n")
    assert fitted("1\ny = 2", context, wanted) == "1"


def test_who_asks_after_a_finished_line_gets_new_lines() -> None:
    context = context_at("x = 1‸\n")
    wanted = extent(context, max_lines=8, invoked=True)
    assert not is_done(context, wanted, "\ny = 2\n")
    assert fitted("\ny = 2\nz = 3\n", context, wanted) == "\ny = 2\nz = 3"


def test_one_line_at_most_is_one_line_everywhere() -> None:
    assert extent(context_at("def f():‸"), max_lines=1).spec == ONE_LINE


@pytest.mark.parametrize(
    ("marked", "text", "done"),
    [
        ("def f():‸\n", "\n    return 1\n", True),
        ("def f():‸\n", "\n    x = 1\n", False),
        ("def f():‸\n", "\n    return 1", False),
        ("def f():\n    ‸\n\n    total = 0\n", "total = 0\n", True),
        ("def f():\n    if x:\n        ‸\n    return None\n", "return None\n", True),
        ("def f():\n    ‸\n    total = 0\n", "x = 1\n", False),
        ("x = ‸\n", "return 1\n", False),
    ],
    ids=["left", "not left", "no whole line", "repeats below", "returns", "goes on", "one line"],
)
def test_reading_ends_with_the_block_or_where_the_text_below_begins(
    marked: str, text: str, done: bool
) -> None:
    context = context_at(marked)
    assert is_done(context, extent(context, max_lines=8), text) is done
