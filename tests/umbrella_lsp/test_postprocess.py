"""Generated text, made to fit: what was generated, where, and what is left of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.umbrella_lsp.cursor import context_at
from umbrella_lsp.postprocess import fitted
from umbrella_lsp.stop import extent


def fit(marked: str, generated: str) -> str:
    context = context_at(marked)
    return fitted(generated, context, extent(context, max_lines=8))


@pytest.mark.parametrize(
    ("marked", "generated", "left"),
    [
        pytest.param("self.name = ‸\n", "name", "name", id="as it is"),
        pytest.param("x = ‸\n", "1\ny = 2", "1", id="one line where one is wanted"),
        pytest.param("x = 1‸\n", "\ny = 2", "", id="a line that is complete"),
        pytest.param("x = ‸\n", "   ", "", id="nothing but blanks"),
        pytest.param("x = ‸\n", "1  \t", "1", id="blanks at the end"),
        pytest.param("f(‸)\n", "a, b)", "a, b", id="a closer that stands there"),
        pytest.param("f(‸)\n", "g(a))", "g(a)", id="of two closers the one that stands there"),
        pytest.param("f(‸)\n", "g(a)", "g(a)", id="a closer of its own"),
        pytest.param("f(‸)\n", "a)  # why", "a", id="what follows the closer"),
        pytest.param('f("‸")\n', 'name")', "name", id="a quote that stands there"),
        pytest.param('f("‸")\n', 'a" + "b', 'a" + "b', id="quotes of its own"),
        pytest.param("f(a‸\n", ", b)", ", b)", id="a closer that is missing"),
        pytest.param("x = ‸ + tax\n", "price + tax", "price", id="the rest of the line"),
        pytest.param("x = [‸, 2]\n", "1, 2]", "1", id="the rest of a list"),
        pytest.param("def f():\n    ‸\n", "    return 1", "return 1", id="indentation given twice"),
        pytest.param(
            "def f():\n    if x:\n    ‸\n", "    return 1", "    return 1", id="indentation that is missing"
        ),
        pytest.param("def f():\n‸\n", "    return 1", "    return 1", id="indentation from column 0"),
        pytest.param("def f():‸\n", "\n    return 1\n\n", "\n    return 1", id="a block on new lines"),
        pytest.param(
            "‸\ntotal = 0\n", "import os\ntotal = 0\nx = 1", "import os", id="a line that stands below"
        ),
        pytest.param("x = f(\n    ‸\n)\n", "a,\n)", "a,", id="closers that stand below"),
        pytest.param("‸\ntotal = 0\n", "total = 0", "", id="nothing but the line below"),
        pytest.param("if x:\n    ‸\npass\n", "pass", "pass", id="the line below, but indented otherwise"),
        pytest.param("y = ‸\nfoo()\n", "foo()", "foo()", id="what the line below has, on another line"),
        pytest.param(
            "def f():\n    ‸\n", "x += 1\n    x += 1\n    x += 1", "x += 1", id="a line over and over"
        ),
        pytest.param("f([[‸\n", "1\n    ]\n    ]", "1\n    ]\n    ]", id="closers over and over"),
        pytest.param("‸\n", "```python\nx = 1\n```\nThat sets x.", "x = 1", id="code in a fence"),
    ],
)
def test_what_was_generated_is_shortened_to_fit(marked: str, generated: str, left: str) -> None:
    assert fit(marked, generated) == left


@given(
    st.sampled_from(["x = ‸\n", "f(‸)\n", "def f():‸\n", "def f():\n    ‸\n    return 1\n", '"‸"', "‸"]),
    st.text(st.sampled_from("ab()[]\"'`\n \t=:é"), max_size=30),
)
def test_fitting_only_ever_takes_away_and_leaves_something_to_show_or_nothing(
    marked: str, generated: str
) -> None:
    left = fit(marked, generated)
    assert left in generated
    assert left == "" or left.strip()
    assert left == left.rstrip()
