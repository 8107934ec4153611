"""Whoever has set up both ways of drawing suggestions sees them once."""

from __future__ import annotations

from tests.e2e.neovim.conftest import ACCOUNT
from tests.e2e.neovim.editor import Neovim


def test_the_plugin_alone_draws(both_levels: Neovim) -> None:
    for name in ("set_up_before.py", "enabled_again.py"):
        both_levels.open(name, ACCOUNT, keys="o")
        shown = both_levels.settled()
        both_levels.type(shown.text[:3])
        both_levels.settled()

        sources = {ghost.source for frame in both_levels.frames() for ghost in frame.ghosts}
        assert sources == {"umbrella"}
        both_levels.inside("vim.lsp.inline_completion.enable()")
