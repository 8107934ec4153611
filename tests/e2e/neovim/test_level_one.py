"""Neovim 0.12 draws suggestions by itself: the README's first lines in init.lua, and no plugin."""

from __future__ import annotations

from tests.e2e.conftest import Desk
from tests.e2e.neovim.conftest import ACCOUNT, engine_killed, typed_fast
from tests.e2e.neovim.editor import Neovim


def test_ghost_text_appears_and_tab_inserts_exactly_it(level_one: Neovim) -> None:
    level_one.open("account.py", ACCOUNT, keys="o")
    level_one.shown()

    before, ghost = level_one.changed_by("<Tab>")

    assert ghost is not None
    assert level_one.lines() == ghost.put_into(before)
    assert level_one.save() == "\n".join([*ghost.put_into(before), ""])


def test_tab_without_ghost_text_is_a_tab(level_one: Neovim) -> None:
    level_one.open("notes.txt", "nothing\n", is_served=False)

    level_one.changed_by("<Tab>")

    assert level_one.lines() == ["nothing\t"]


def test_typing_along_keeps_the_ghost_text_on_every_screen(level_one: Neovim) -> None:
    level_one.open("along.py", ACCOUNT, keys="o")
    shown = level_one.settled()
    row = level_one.terminal.rows()[shown.row]
    screens = level_one.terminal.watch()

    level_one.type(shown.text[:6])

    assert level_one.settled().text.startswith(shown.text[6:])
    assert len(screens) >= 6
    assert {screen[shown.row] for screen in screens} == {row}


def test_only_the_answer_to_the_last_state_shows_though_nothing_is_cancelled(
    level_one: Neovim, neovim_desk: Desk
) -> None:
    ghost = typed_fast(level_one, neovim_desk)

    *old, last = level_one.wire.requests()
    assert [request.texts for request in old] == [[]] * len(old)
    assert last.texts == [ghost.text]
    assert (ghost.row, ghost.column) == level_one.cursor()
    assert not level_one.wire.told("$/cancelRequest")


def test_a_killed_engine_costs_a_suggestion_and_one_message(level_one: Neovim, neovim_desk: Desk) -> None:
    engine = engine_killed(level_one, neovim_desk)
    level_one.shown()

    assert neovim_desk.engines() != [engine]
    assert len(level_one.wire.told("window/showMessage")) == 1
