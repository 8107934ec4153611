"""The plugin over a day: on and off, engines that come and go, and what it says of itself."""

from __future__ import annotations

import json

from tests.e2e.conftest import Desk
from tests.e2e.neovim.conftest import ACCOUNT, engine_killed
from tests.e2e.neovim.editor import Neovim, wait_for

READY = "Umbrella"


def statusline(neovim: Neovim) -> str:
    return neovim.inside("return require('umbrella').statusline()")


def kind(neovim: Neovim) -> str:
    return neovim.inside("return require('umbrella').status().kind")


def state(desk: Desk) -> str:
    """What the engine says of itself."""
    return json.loads(desk.run("umbrella-engine", "status", "--json").stdout)["state"]


def test_switched_off_it_asks_nothing_and_says_so(level_two: Neovim) -> None:
    level_two.open("off.py", ACCOUNT, keys="o")
    level_two.settled()
    wait_for(lambda: statusline(level_two) == READY, "the server is at rest")
    level_two.wire.mark()

    level_two.inside("vim.cmd('Umbrella toggle')")

    wait_for(lambda: level_two.ghost() is None, "the ghost text is gone")
    assert statusline(level_two) == "Umbrella off"
    level_two.type("xy")
    # A timer started later than the plugin's would be, and for longer, has gone off.
    level_two.inside("look.later = false vim.defer_fn(function() look.later = true end, 200)")
    wait_for(lambda: level_two.inside("return look.later"), "the pause is over")
    assert level_two.wire.requests() == []
    level_two.inside("vim.cmd('Umbrella toggle')")
    level_two.keys("<C-w>")
    level_two.shown()
    wait_for(lambda: statusline(level_two) == READY, "the state is as before")


def test_an_unloaded_engine_comes_back_with_the_next_key_and_nothing_leaves_the_machine(
    level_two: Neovim, neovim_desk: Desk
) -> None:
    level_two.open("unload.py", ACCOUNT, keys="o")
    level_two.settled()

    engines = neovim_desk.engines()

    level_two.inside("vim.cmd('Umbrella unload')")

    wait_for(lambda: state(neovim_desk) == "unloaded", "the memory is free")
    wait_for(lambda: kind(level_two) == "unloaded", "the state says so")
    level_two.open("back.py", ACCOUNT, keys="o")
    sockets: set[str] = set()

    def is_back() -> bool:
        sockets.update(neovim_desk.sockets())
        return level_two.ghost() is not None

    wait_for(is_back, "ghost text")
    assert neovim_desk.engines() == engines
    assert sockets == set()
    wait_for(lambda: statusline(level_two) == READY, "the state is as before")
    assert level_two.wire.told("window/showMessage") == []


def test_a_killed_engine_costs_a_suggestion_and_one_message(level_two: Neovim, neovim_desk: Desk) -> None:
    engine = engine_killed(level_two, neovim_desk)
    seen: set[str] = set()

    def is_back() -> bool:
        seen.add(statusline(level_two))
        return level_two.ghost() is not None

    wait_for(is_back, "ghost text")
    assert any("%" in said for said in seen), seen
    assert neovim_desk.engines() != [engine]
    assert len(level_two.wire.told("window/showMessage")) == 1


def test_its_health_is_good(level_two: Neovim) -> None:
    level_two.open("health.py", ACCOUNT)

    level_two.inside("vim.cmd('stopinsert') vim.cmd('checkhealth umbrella')")

    wait_for(lambda: level_two.inside("return vim.bo.filetype") == "checkhealth", "the report is there")
    wait_for(lambda: any("OK" in line for line in level_two.lines()), "the report is written")
    assert [line for line in level_two.lines() if "ERROR" in line] == []


def test_its_help_opens(level_two: Neovim) -> None:
    level_two.open("help.py", ACCOUNT)

    level_two.inside("vim.cmd('stopinsert') vim.cmd('help umbrella')")

    assert level_two.inside("return vim.bo.filetype") == "help"
    assert level_two.inside("return vim.fn.expand('%:t')") == "umbrella.txt"
