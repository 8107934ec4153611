from __future__ import annotations

import io

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from engine.chat.markdown import Cleaner, LiveAnswer, Text, printable, settled

COLUMNS, ROWS = 60, 12
HARMFUL = st.lists(
    st.sampled_from([*"a\n\t\x1b\x07\x9b[];mKP\\0 31", "\x1b[31m", "\x1b]52;c;eA==\x07", "\x1b]8;;x\x1b\\"]),
    max_size=30,
)
BLOCKS = st.lists(
    st.sampled_from(
        [
            "# Title",
            "Some *text*\nof two lines.",
            "- a\n- b",
            "1. one\n\n   more",
            "```python\nx = 1\n\ny = 2\n```",
            "> quoted\nlazily",
            "| a | b |\n|---|---|\n| 1 | 2 |",
            "---",
            "Text\n===",
            "<b>tag</b>",
        ]
    ),
    max_size=5,
).map("\n\n".join)


@given(HARMFUL)
def test_no_control_sequence_survives_however_it_is_cut(pieces: list[str]) -> None:
    cleaner = Cleaner()
    shown = "".join(cleaner.feed(piece) for piece in pieces)
    assert shown == printable("".join(pieces))
    assert all(character.isprintable() or character in "\n\t" for character in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never\nended", "0;never\nended"),
        ("a\r\nb\x08\x9b2J", "a\nb2J"),
        ("[red]as it is[/red] <b>", "[red]as it is[/red] <b>"),
    ],
)
def test_only_control_sequences_are_taken_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def drawn(text: str, width: int = COLUMNS) -> list[str]:
    """Rows that a text takes, without the blank ones."""
    console = Console(file=io.StringIO(), width=width)
    console.print(Text(text))
    assert isinstance(console.file, io.StringIO)
    return [row.rstrip() for row in console.file.getvalue().split("\n") if row.strip()]


@settings(max_examples=40)
@given(BLOCKS, BLOCKS)
def test_what_is_settled_looks_the_same_whatever_follows(text: str, more: str) -> None:
    at = settled(text)
    assert drawn(text[:at]) + drawn(text[at:]) == drawn(text)
    if at:
        assert drawn(text + more)[: len(drawn(text[:at]))] == drawn(text[:at])


def screen_after(text: str, pieces: int) -> list[str]:
    """Rows of all that a terminal has shown once `text` has come in so many pieces."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=COLUMNS, height=ROWS)
    with LiveAnswer(console) as live:
        size = max(1, len(text) // pieces)
        for at in range(0, len(text), size):
            live.add(text[at : at + size])
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=1000)
    pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    above = ["".join(row[x].data for x in range(COLUMNS)) for row in screen.history.top]
    return [row.rstrip() for row in [*above, *screen.display] if row.strip()]


@pytest.mark.parametrize("pieces", [1, 7, 60])
def test_a_long_answer_is_on_the_screen_once_and_whole(pieces: int) -> None:
    items = "\n".join(f"- item {n} [red]" for n in range(3 * ROWS))
    text = f"# Title\n\n**Bold** <b>and not</b>\n\n{items}\n\n```python\nx = 1\n```\n\nThe end.\n"
    assert screen_after(text, pieces) == drawn(text)
    assert f" • item {3 * ROWS - 1} [red]" in drawn(text)
    assert "Bold <b>and not</b>" in drawn(text)


def test_an_answer_that_is_broken_off_leaves_what_there_was() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=COLUMNS, height=ROWS)

    def be_interrupted() -> None:
        with LiveAnswer(console) as live:
            live.add("some text")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip().endswith("some text")
