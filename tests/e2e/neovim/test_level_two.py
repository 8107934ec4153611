"""The plugin's suggestions: how they come, what they let one do, and when they go."""

from __future__ import annotations

import re

from tests.e2e.conftest import Desk
from tests.e2e.neovim.conftest import ACCOUNT, several_lines, typed_fast
from tests.e2e.neovim.editor import Neovim, wait_for


def feedback(neovim: Neovim, event: str) -> list[dict[str, object]]:
    return [told for told in neovim.wire.told("umbrella/feedback") if told["event"] == event]


def test_tab_inserts_exactly_the_several_lines_that_are_shown(level_two: Neovim) -> None:
    path = level_two.open("account.py", ACCOUNT, keys="o")
    level_two.inside("vim.bo.autoindent = true")
    wait_for(lambda: "\n" in level_two.shown().text, "several lines, unasked")

    before, ghost = level_two.changed_by("<Tab>")

    assert ghost is not None
    after = ghost.put_into(before)
    assert level_two.lines() == after
    row = ghost.row + ghost.text.count("\n")
    assert level_two.cursor() == (row, len(after[row]))
    level_two.save()
    assert path.read_text() == "\n".join([*after, ""])
    wait_for(
        lambda: (
            "umbrella.accepted"
            in [told["command"] for told in level_two.wire.told("workspace/executeCommand")]
        ),
        "the server is told",
    )


def test_a_word_is_accepted_and_the_rest_stays(level_two: Neovim) -> None:
    level_two.open("word.py", ACCOUNT, keys="o")
    several_lines(level_two)

    before, ghost = level_two.changed_by("<M-Right>")

    assert ghost is not None
    rest = level_two.shown()
    assert rest.put_into(level_two.lines()) == ghost.put_into(before)
    assert re.fullmatch(r"\s*(\w+|[^\w\s]+)", ghost.text.removesuffix(rest.text))
    assert feedback(level_two, "partly")[-1]["length"] == len(ghost.text) - len(rest.text)


def test_a_line_is_accepted_and_the_rest_stays(level_two: Neovim) -> None:
    level_two.open("line.py", ACCOUNT, keys="o")
    several_lines(level_two)

    before, ghost = level_two.changed_by("<M-C-Right>")

    assert ghost is not None
    rest = level_two.shown()
    assert rest.put_into(level_two.lines()) == ghost.put_into(before)
    assert ghost.text.removesuffix(rest.text).strip() == ghost.text.partition("\n")[0]


def test_a_dismissed_suggestion_goes_and_the_server_is_told(level_two: Neovim) -> None:
    level_two.open("dismiss.py", ACCOUNT, keys="o")
    level_two.settled()
    lines = level_two.lines()

    level_two.keys("<C-]>")

    wait_for(lambda: level_two.ghost() is None, "the ghost text is gone")
    assert level_two.lines() == lines
    [told] = wait_for(lambda: feedback(level_two, "dismissed"), "the server is told")
    assert told["id"] == feedback(level_two, "shown")[-1]["id"]


def test_alternatives_come_one_after_another(level_two: Neovim) -> None:
    level_two.open("alternatives.py", ACCOUNT, keys="o")
    first = several_lines(level_two).text

    level_two.keys("<M-]>")

    wait_for(lambda: level_two.shown().text != first, "another suggestion")
    asked_for = [r.texts for r in level_two.wire.requests() if r.params["context"]["triggerKind"] == 1]
    assert asked_for[-1][:2] == [first, level_two.shown().text]
    level_two.keys("<M-[>")
    wait_for(lambda: level_two.shown().text == first, "the first suggestion again")


def test_a_suggestion_can_be_asked_for(level_two: Neovim) -> None:
    level_two.open("trigger.py", ACCOUNT, keys="o")
    level_two.settled()
    level_two.wire.mark()

    level_two.keys("<M-Bslash>")

    [asked] = wait_for(level_two.wire.requests, "it is asked for")
    assert asked.params["context"]["triggerKind"] == 1


def test_typing_along_keeps_the_ghost_text_on_every_screen(level_two: Neovim) -> None:
    level_two.open("along.py", ACCOUNT, keys="o")
    shown = several_lines(level_two)
    rows = slice(shown.row, shown.row + 2)
    before = level_two.terminal.rows()[rows]
    screens = level_two.terminal.watch()

    level_two.type(shown.text[:8])

    level_two.settled()
    assert len(screens) >= 8
    assert [screen[rows] for screen in screens if screen[rows] != before] == []


def test_typing_fast_cancels_and_only_the_last_answer_shows(level_two: Neovim, neovim_desk: Desk) -> None:
    ghost = typed_fast(level_two, neovim_desk)

    *old, last = level_two.wire.requests()
    assert [told["id"] for told in level_two.wire.told("$/cancelRequest")] == [request.id for request in old]
    assert last.texts[0] == ghost.text
    assert (ghost.row, ghost.column) == level_two.cursor()


def test_ghost_text_is_hidden_while_the_popup_menu_is_open(level_two: Neovim) -> None:
    level_two.open("menu.py", ACCOUNT, keys="o")
    level_two.settled()
    lines = level_two.lines()

    level_two.keys("<C-x><C-n>")

    wait_for(lambda: level_two.inside("return vim.fn.pumvisible()") == 1, "the menu is open")
    wait_for(lambda: level_two.ghost() is None, "the ghost text is hidden")
    level_two.keys("<C-e>")
    assert level_two.shown().put_into(lines)
    assert level_two.lines() == lines
