"""A terminal to see Neovim in: it understands what is written to it, as text or a picture.

It knows cells, colours and escape sequences, and nothing of editors.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS, ROWS = 88, 24


class Terminal:
    """Runs one program in a terminal of `COLUMNS` by `ROWS` cells, which closes when the program ends."""

    def __init__(self, command: list[str | Path], environment: Mapping[str, str]) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._screens: list[list[str]] = []
        self._controller, program_side = pty.openpty()
        fcntl.ioctl(program_side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command,
            env=dict(environment) | {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
            stdin=program_side,
            stdout=program_side,
            stderr=program_side,
            start_new_session=True,
        )
        os.close(program_side)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._controller, 1 << 16)
            except OSError:  # How Linux says that the program's side is closed.
                chunk = b""
            if not chunk:
                return
            with self._lock:
                self._stream.feed(chunk)
                self._screens.append([row.rstrip() for row in self._screen.display])

    def rows(self) -> list[str]:
        """What is on the screen."""
        with self._lock:
            return [row.rstrip() for row in self._screen.display]

    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor, both from 0."""
        with self._lock:
            return self._screen.cursor.y, self._screen.cursor.x

    def watch(self) -> list[list[str]]:
        """A list that every screen to come is put on, as it is drawn."""
        with self._lock:
            self._screens = []
            return self._screens

    def close(self) -> None:
        """End the program, if it has not ended."""
        self.process.terminate()
        self.process.wait()
        self._reader.join()
        os.close(self._controller)

    def picture(self, title: str, rows: int) -> str:
        """The upper `rows` of a screen in true colours, as SVG that fetches nothing."""
        with self._lock:
            cells = [[self._screen.buffer[y][x] for x in range(COLUMNS)] for y in range(rows)]
        ground = Color.parse(f"#{cells[0][-1].bg}")
        light = Color.parse(f"#{cells[0][-1].fg}")
        theme = TerminalTheme(ground.get_truecolor(), light.get_truecolor(), [(0, 0, 0)] * 8)
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        for row in cells:
            pieces = itertools.groupby(row, key=_style)
            console.print(Text.assemble(*(("".join(c.data for c in run), style) for style, run in pieces)))
        drawn = console.export_svg(title=title, theme=theme)
        # Without the fonts it would have a viewer fetch.
        return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def _style(cell: Char) -> Style:
    return Style(
        color=f"#{cell.fg}",
        bgcolor=f"#{cell.bg}",
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        reverse=cell.reverse,
    )
