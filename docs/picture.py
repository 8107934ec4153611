"""Makes README's picture: a real Neovim in a terminal, shown by the real server, drawn as SVG.

``python docs/picture.py nvim.svg`` needs tmux, Neovim 0.12 as ``nvim`` and ``umbrella-lsp`` on PATH.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 76, 14
CODE = """import json


class Point:
    def __init__(self, x, y):
        self.x = x
"""
TYPED = "        self.y = "
INIT = """
vim.o.termguicolors = true
vim.o.laststatus = 0
vim.o.ruler = false
vim.o.number = true
vim.o.swapfile = false
vim.lsp.enable('umbrella')
vim.lsp.inline_completion.enable()
"""
PATIENCE_S = 60.0
SETTLE_S = 4.0
"""Neovim asks for nothing before the server has attached, and does not say when it has."""


def tmux(*arguments: str) -> str:
    """What ``tmux`` prints, on a server of our own."""
    command = ["tmux", "-L", "umbrella-picture", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def until_something_follows(typed: str) -> None:
    """Wait until a suggestion stands behind what was typed."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        _, _, behind = tmux("capture-pane", "-p").partition(typed)
        if behind.partition("\n")[0].strip():
            return
        time.sleep(0.2)
    sys.exit("no suggestion appeared")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    plugin = Path(__file__).resolve().parent.parent / "editors" / "neovim"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "init.lua").write_text(f"vim.opt.runtimepath:append('{plugin}')\n{INIT}")
        (folder / "point.py").write_text(CODE)
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        editor = shutil.which("nvim") or sys.exit("nvim is not on PATH")
        init = str(folder / "init.lua")
        tmux("new-session", "-d", *size, "-c", name, editor, "-u", init, "point.py")
        try:
            time.sleep(SETTLE_S)
            tmux("send-keys", "G", "o", "C-u")
            tmux("send-keys", "-l", TYPED)
            until_something_follows(TYPED.strip())
            screen = tmux("capture-pane", "-p", "-e")
        finally:
            tmux("kill-server")
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(screen.rstrip("\n")))
    svg = console.export_svg(title="nvim point.py", theme=MONOKAI)
    # Without the fonts it would have a viewer fetch.
    out.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
