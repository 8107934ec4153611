"""README's picture: the plugin in a terminal, as this run has seen it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.neovim.conftest import several_lines
from tests.e2e.neovim.editor import Neovim, wait_for

CODE = """class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __eq__(self, other):
"""
DRESSED = "vim.o.termguicolors, vim.o.number, vim.o.ruler, vim.o.laststatus = true, true, false, 0"
PLAIN = "vim.o.termguicolors, vim.o.number, vim.o.ruler, vim.o.laststatus = false, false, true, 2"
ROWS = 11


def test_several_lines_of_ghost_text_make_a_picture(level_two: Neovim, tmp_path: Path) -> None:
    try:
        level_two.inside(DRESSED)
        level_two.open("point.py", CODE, keys="o")
        ghost = several_lines(level_two)
        last = ghost.text.rpartition("\n")[2].strip()
        wait_for(lambda: any(last in row for row in level_two.terminal.rows()), "all is on the screen")

        picture = level_two.terminal.picture("nvim point.py", ROWS)
    finally:
        level_two.inside(PLAIN)

    folder = Path(os.environ.get("UMBRELLA_PICTURES", tmp_path))
    (folder / "neovim.svg").write_text(picture)
    assert len(picture) < 120_000
    assert "url(http" not in picture
    for line in ghost.text.split("\n"):
        assert line.strip().replace(" ", "&#160;") in picture
