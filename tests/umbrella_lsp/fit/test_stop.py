"""How far a suggestion goes."""

from __future__ import annotations

import pytest

from engine.protocol import StopSpec
from tests.umbrella_lsp.cursor import context_at
from tests.umbrella_lsp.fitting import Cursor
from umbrella_lsp.fit.stop import extent, first_part, is_done, is_silent_here

LINE = StopSpec(max_lines=1)

PYTHON = [
    ("x = ‸\n", "line", LINE),
    ("x = f(a, ‸\n", "line", LINE),
    ("x = ‸ + 1\n", "line", LINE),
    ("if x:‸ # why\n", "line", LINE),
    ("    ‸x = 1\n", "line", LINE),
    ("# if x:‸\n", "line", LINE),
    ('def f():\n    """One.\n    ‸\n    """\n', "line", LINE),
    ('x = "(‸"\n', "line", LINE),
    ("x = f(‸)\n", "statement", StopSpec(max_lines=9)),
    ("x = [‸\n", "statement", StopSpec(max_lines=9)),
    ("x = [\n    ‸\n", "statement", StopSpec(max_lines=8)),
    ("x = [\n    ‸\n]\n", "statement", StopSpec(max_lines=8, min_indent=1)),
    ("    x = [\n        1,‸\n    ]\n", "statement", StopSpec(max_lines=9, min_indent=5)),
    ("def f():‸\n", "block", StopSpec(max_lines=9, min_indent=1)),
    ("class A:\n    def f(self):‸", "block", StopSpec(max_lines=9, min_indent=5)),
    ("    def f(a,\n          b):‸\n", "block", StopSpec(max_lines=9, min_indent=5)),
    ("def f():\n    ‸\n", "block", StopSpec(max_lines=8, min_indent=4)),
    ("def f():\n    x = 1\n    ‸\n", "block", StopSpec(max_lines=8, min_indent=4)),
    ("def f():\n‸\n", "block", StopSpec(max_lines=8, min_indent=1)),
    ("import os\n‸", "block", StopSpec(max_lines=8)),
    ("‸", "block", StopSpec(max_lines=8)),
    ("‸\n\ntotal_price = 0\n", "block", StopSpec(("\ntotal_price = 0\n",), 8)),
]


@pytest.mark.parametrize("has_syntax", [False, True])
@pytest.mark.parametrize(("marked", "reach", "spec"), PYTHON)
def test_lines_statements_and_blocks_are_told_apart(
    marked: str, reach: str, spec: StopSpec, has_syntax: bool
) -> None:
    found = Cursor(marked, "python", has_syntax=has_syntax).extent
    assert (found.reach, found.spec) == (reach, spec)


@pytest.mark.parametrize("has_syntax", [False, True])
@pytest.mark.parametrize(
    ("marked", "reach", "spec"),
    [
        ("function f() {‸\n", "block", StopSpec(max_lines=9)),
        ("function f() {\n  ‸\n}\n", "block", StopSpec(max_lines=8, min_indent=2)),
        ("class A {\n  f() {\n    ‸\n}\n", "block", StopSpec(max_lines=8, min_indent=2)),
        ("f(a => {‸\n", "block", StopSpec(max_lines=9)),
        ("f(‸);\n", "statement", StopSpec(max_lines=9)),
        ("switch (x) {\n  case 1:‸\n}\n", "block", StopSpec(max_lines=9, min_indent=3)),
    ],
)
def test_a_block_in_braces_takes_its_closer_with_it_unless_that_is_there(
    marked: str, reach: str, spec: StopSpec, has_syntax: bool
) -> None:
    found = Cursor(marked, "javascript", has_syntax=has_syntax).extent
    assert (found.reach, found.spec) == (reach, spec)


@pytest.mark.parametrize("has_syntax", [False, True])
def test_a_statement_that_wants_an_operand_gets_that_and_no_more(has_syntax: bool) -> None:
    cursor = Cursor("const x =\n  ‸\n", "javascript", has_syntax=has_syntax)
    assert cursor.extent.reach == "statement"
    assert is_done(cursor.context, cursor.extent, "1;\n", cursor.inserted("1;\n"))
    assert not is_done(cursor.context, cursor.extent, "a +\n", cursor.inserted("a +\n"))


@pytest.mark.parametrize(
    ("marked", "reach", "spec"),
    [
        ("x = 1‸\n", "following", StopSpec(max_lines=17)),
        ("def f():\n    x = 1‸\n", "following", StopSpec(max_lines=17, min_indent=4)),
        ("x = ‸\n", "line", StopSpec(max_lines=1)),
        ("return ‸\n", "line", StopSpec(max_lines=1)),
        ("x++‸\n", "following", StopSpec(max_lines=17)),
        ("def f():‸\n", "block", StopSpec(max_lines=17, min_indent=1)),
        ("# why‸\n", "block", StopSpec(max_lines=17)),
        ("x = ‸ + 1\n", "line", LINE),
    ],
)
def test_who_asks_gets_more(marked: str, reach: str, spec: StopSpec) -> None:
    found = Cursor(marked, "python", has_syntax=False, invoked=True).extent
    assert (found.reach, found.spec) == (reach, spec)


def test_one_line_at_most_is_one_line_everywhere() -> None:
    assert extent(context_at("def f():‸"), max_lines=1).spec == LINE


@pytest.mark.parametrize("has_syntax", [False, True])
@pytest.mark.parametrize(
    ("marked", "text", "done"),
    [
        pytest.param("def f():‸\n", "\n    return 1\n", True, id="left"),
        pytest.param("def f():‸\n", "\n    if x:\n        return 1\n", False, id="left within"),
        pytest.param("def f():‸\n", "\n    return g(\n", False, id="not left yet"),
        pytest.param("def f():‸\n", "\n    x = 1\n", False, id="not left"),
        pytest.param("def f():‸\n", "\n    return 1", False, id="no whole line"),
        pytest.param("def f():\n    ‸\n\n    total = 0\n", "total = 0\n", True, id="repeats below"),
        pytest.param("def f():\n    ‸\n", "f()\n    f()\n    f()\n", True, id="repeats itself"),
        pytest.param(
            "def f():\n    if x:\n        ‸\n    return None\n", "return None\n", True, id="returns"
        ),
        pytest.param("def f():\n    ‸\n    total = 0\n", "x = 1\n", False, id="goes on"),
        pytest.param("x = ‸\n", "1\n", True, id="one line"),
        pytest.param("x = f(\n    ‸\n", "a,\n", False, id="within a statement"),
        pytest.param("x = f(\n    ‸\n", "a,\n)\n", True, id="end of a statement"),
        pytest.param("x = f(g(\n    ‸\n", "a\n    ),\n", False, id="of two calls the inner one"),
        pytest.param("f(‸)\n", "lambda x: (\n", False, id="a bracket that is open"),
        pytest.param("f(‸)\n", "x\n", True, id="nothing is open"),
    ],
)
def test_reading_ends_with_what_was_wanted_or_where_the_text_below_begins(
    marked: str, text: str, done: bool, has_syntax: bool
) -> None:
    cursor = Cursor(marked, "python", has_syntax=has_syntax)
    assert is_done(cursor.context, cursor.extent, text, cursor.inserted(text)) is done


@pytest.mark.parametrize("has_syntax", [False, True])
@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("\n  a();\n}\n", True),
        ("\n  a();\n} else {\n", False),
        ("\n  return 1;\n", False),
        ("\n  a({\n", False),
    ],
)
def test_a_block_in_braces_is_complete_with_its_closer(text: str, done: bool, has_syntax: bool) -> None:
    cursor = Cursor("if (x) {‸\n", "javascript", has_syntax=has_syntax)
    assert is_done(cursor.context, cursor.extent, text, cursor.inserted(text)) is done


@pytest.mark.parametrize(
    ("marked", "text", "part"),
    [
        ("def f():‸\n", "\n    x = 1\n    y", "\n    x = 1"),
        ("def f():‸\n", "\n    x = 1", ""),
        ("def f():\n    ‸\n", "x = 1\n", "x = 1"),
        ("x = ‸\n", "\n", ""),
        ("f(‸)\n", "[\n    a,\n]\n", ""),
        ("f(‸)\n", "[a]\n", "[a]"),
    ],
)
def test_what_may_be_answered_first_is_the_first_line_of_code(marked: str, text: str, part: str) -> None:
    assert text[: first_part(text, extent(context_at(marked), max_lines=8))] == part


@pytest.mark.parametrize(
    ("marked", "silent"),
    [("na‸me\n", True), ("name‸\n", False), ("name‸)\n", False), ("x ‸y\n", False), ("‸x", False)],
)
def test_nothing_is_said_amid_a_word_unless_somebody_asks(marked: str, silent: bool) -> None:
    context = context_at(marked)
    assert is_silent_here(context, invoked=False) is silent
    assert not is_silent_here(context, invoked=True)
