"""Generated text, made to fit: what was generated, where, and what is left of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Segment
from tests.umbrella_lsp.fitting import Case, Cursor, read_cases
from umbrella_lsp.fit.postprocess import Fitted, fitted
from umbrella_lsp.fit.stop import lines_below
from umbrella_lsp.syntax.languages import GRAMMARS

GOLDEN = Path(__file__).parents[2] / "golden" / "postprocess"
CASES = [case for path in sorted(GOLDEN.glob("*.txt")) for case in read_cases(path)]


def check(case: Case, *, has_syntax: bool) -> None:
    cursor = Cursor(case.marked, case.language, has_syntax=has_syntax, invoked=case.invoked)
    assert cursor.fit(case.generated) == case.inserted
    assert cursor.fit(case.inserted.text) == case.inserted


@pytest.mark.parametrize("case", [c for c in CASES if c.language in GRAMMARS], ids=lambda case: case.name)
def test_what_was_generated_is_made_to_fit_by_its_syntax_once_and_for_all(case: Case) -> None:
    check(case, has_syntax=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_generated_is_made_to_fit_without_syntax_too(case: Case) -> None:
    check(case, has_syntax=False)


@pytest.mark.parametrize(("text", "left"), [(";", ""), (";\nb", ""), (" // why", " // why")])
def test_what_the_cursor_has_passed_since_the_engine_was_shown_it_is_not_written_again(
    text: str, left: str
) -> None:
    cursor = Cursor("a = 1;‸\nb = 2;\n", "javascript", has_syntax=False)
    context = replace(cursor.context, segments=(Segment("suffix", ";\nb = 2;\n"),))
    assert fitted(text, context, cursor.extent, None) == Fitted(left)


PLACES = [
    "x = ‸\n",
    "f(‸)\nf(a)\n",
    'f("‸")\n',
    "def f():‸\n",
    "def f():\n    if a:\n        b\n    ‸\n    return a\n",
    "def f():\n\tif a:\n\t\tb\n\t‸\n",
    "x = [\n    ‸\n]\n",
    "f(g(‸)  # a\n",
    "a‸ a\n",
    "x = ‸ab(f(a), 'b')\n",
    "‸",
]
PIECES = [
    "a",
    "ab",
    "return a",
    "f(a)",
    "if a:",
    "b = 1",
    *"()[]{}\"'`\n\t=:,;# ",
    "\n    ",
    "\n  ",
    "```",
    "This is what it is.",
]


@pytest.mark.parametrize("has_syntax", [False, True])
@given(marked=st.sampled_from(PLACES), pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_what_fits_is_no_longer_has_no_blanks_at_its_end_and_still_fits(
    has_syntax: bool, marked: str, pieces: list[str]
) -> None:
    cursor, generated = Cursor(marked, "python", has_syntax=has_syntax), "".join(pieces)
    left = cursor.fit(generated)
    assert "".join(left.text.split()) in "".join(generated.split())
    assert left.text == "" or left.text.strip()
    before, after = cursor.context.before, cursor.context.after[left.replaces :]
    lines = left.text.split("\n")
    assert all(line == line.rstrip() for line in lines[:-1])
    assert lines[-1] == lines[-1].rstrip() or after[:1].isalnum()
    below = lines_below(cursor.context.suffix)[:1]
    whole = [line.rstrip() for line in f"{before}{left.text}{after}".split("\n")]
    words = [after[:size] for size in range(3, len(after) + 1) if any(map(str.isalnum, after[:size]))]
    assert not left.text.endswith(tuple(words))
    if left.text and below and len(below[0].strip()) > 2:
        assert below[0] not in whole
    if not has_syntax:  # Of text that no grammar allows, syntax may say something else once it is shorter.
        assert cursor.fit(left.text) == left
