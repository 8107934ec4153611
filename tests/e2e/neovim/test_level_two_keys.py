"""The plugin's keys leave the user's own alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.neovim.conftest import ACCOUNT
from tests.e2e.neovim.editor import Neovim, wait_for

OWN_MAPPINGS = {
    "expression": "vim.keymap.set('i', '<Tab>', [['q' .. 'vz']], { expr = true })",
    "function": "vim.keymap.set('i', '<Tab>', function() vim.api.nvim_put({ 'qvz' }, 'c', false, true) end)",
    "buffer's own": "vim.keymap.set('i', '<Tab>', 'qvz', { buffer = true })",
}


@pytest.fixture
def unmapped(level_two: Neovim) -> Iterator[Neovim]:
    yield level_two
    level_two.inside("pcall(vim.keymap.del, 'i', '<Tab>')")


@pytest.mark.parametrize("mapping", OWN_MAPPINGS.values(), ids=OWN_MAPPINGS)
def test_tab_does_what_it_did_where_no_suggestion_is_shown(unmapped: Neovim, mapping: str) -> None:
    at_last = f"callback = function() {mapping} end, once = true, pattern = 'python'"
    unmapped.inside(f"vim.api.nvim_create_autocmd('FileType', {{ {at_last} }})")
    unmapped.open("mapped.py", ACCOUNT, keys="o")
    unmapped.settled()
    unmapped.keys("<C-]>")
    wait_for(lambda: unmapped.ghost() is None, "the ghost text is gone")

    before, _ = unmapped.changed_by("<Tab>")

    assert unmapped.lines() == [*before[:-1], before[-1] + "qvz"]
    shown = unmapped.shown()
    before, ghost = unmapped.changed_by("<Tab>")
    assert ghost is not None
    assert ghost.row == shown.row
    assert unmapped.lines() == ghost.put_into(before)


def test_keys_can_be_turned_off(level_two: Neovim) -> None:
    try:
        level_two.inside("require('umbrella').setup({ keymap = false })")
        level_two.open("keyless.py", ACCOUNT, keys="o")
        ghost = level_two.settled()

        before, _ = level_two.changed_by("<Tab>")

        assert level_two.lines()[ghost.row].isspace()
        assert level_two.lines() != ghost.put_into(before)
    finally:
        level_two.inside("require('umbrella').setup({})")
