"""Somebody at a real Neovim: types keys, and looks at what is drawn, written and said on the wire.

It knows Neovim's API and where ghost text is kept; nothing of what is suggested.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.neovim.rpc import NeovimError, Rpc
from tests.e2e.neovim.terminal import Terminal
from tests.e2e.wire import Wire

PATIENCE_S = 60.0
"""A cold engine loads its model meanwhile."""
POLL_S = 0.01
LOOK = Path(__file__).with_name("look.lua")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ghost:
    """Ghost text as drawn: `text` begins at byte `column` of line `row`, both counted from 0."""

    text: str
    row: int
    column: int
    source: str
    """The namespace that it is drawn in."""

    def put_into(self, lines: list[str]) -> list[str]:
        """`lines` with the ghost text made real."""
        line = lines[self.row].encode()
        before, after = line[: self.column].decode(), line[self.column :].decode()
        return [*lines[: self.row], *f"{before}{self.text}{after}".split("\n"), *lines[self.row + 1 :]]


@dataclass(frozen=True, slots=True)
class Frame:
    """One redraw."""

    lines: list[str]
    ghosts: list[Ghost]

    @property
    def ghost(self) -> Ghost | None:
        """The ghost text, of which there is never more than one."""
        assert len(self.ghosts) < 2, f"drawn twice: {self.ghosts}"
        return self.ghosts[0] if self.ghosts else None


def wait_for(condition: Callable[[], T], what: str) -> T:
    """What `condition` gives once it gives something; a failure that says `what` if it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(POLL_S)
    return value


class Neovim:
    """A Neovim with its interface in a terminal, driven from outside."""

    def __init__(self, program: Path, folder: Path, environment: dict[str, str], wire: Wire) -> None:
        self.folder = folder
        self.wire = wire
        address = Path(environment["UMBRELLA_RUNTIME_DIR"], "nvim.sock")
        # An interface starts its Neovim by the name of the program that runs, which is the loader where
        # install_nvim.sh made it: so they are started one by one.
        self._process = subprocess.Popen(
            [program, "--headless", "-i", "NONE", "-n", "--listen", address],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(address.exists, "Neovim listens")
        self.terminal = Terminal([program, "--server", address, "--remote-ui"], environment)
        self._rpc = Rpc(address, PATIENCE_S)
        self.inside(LOOK.read_text())
        wait_for(lambda: self.inside("return #vim.api.nvim_list_uis()"), "the terminal is attached")

    def close(self) -> None:
        """End it, whatever it is at."""
        with suppress(OSError):
            if self.mode().startswith("r"):
                self.keys("<CR>")
            self._rpc.call("nvim_command", "quitall!")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.terminal.close()
        self._rpc.close()

    def inside(self, lua: str, *arguments: object) -> Any:
        """Run Lua in the editor; what it returns."""
        mode = self.mode()
        assert not mode.startswith("r"), f"Neovim waits for a key:\n{self._screen()}"
        return self._rpc.call("nvim_exec_lua", lua, arguments)

    def keys(self, keys: str) -> None:
        """Press keys, named as Neovim names them, faster than anybody could."""
        self._rpc.call("nvim_input", keys)

    def type(self, text: str) -> None:
        """Type `text` key by key, each when the one before is on the screen."""
        for character in text:
            row, column = self.terminal.cursor()
            self.keys("<lt>" if character == "<" else character)
            wait_for(lambda after=(row, column + 1): self.terminal.cursor() == after, f"{character} is typed")

    def open(self, name: str, text: str, keys: str = "A", is_served: bool = True) -> Path:
        """Open a new file alone, put the cursor on its last line and press `keys`."""
        path = self.folder / name
        path.write_text(text)
        self.keys(r"<C-\><C-N>")
        wait_for(lambda: self.mode() == "n", "normal mode")
        self.inside("vim.cmd('silent! %bwipeout!') vim.cmd.edit(...)", str(path))
        if is_served:
            wait_for(self.attached, "the language server is attached")
        self.inside("vim.cmd('normal! G') look.watch()")
        self.keys(keys)
        return path

    def attached(self) -> bool:
        """Whether a language server that is ready serves the buffer."""
        return self.inside(
            "local client = vim.lsp.get_clients({ bufnr = 0, name = 'umbrella' })[1]"
            "return client ~= nil and client.initialized == true"
        )

    def save(self) -> str:
        """Write the file; what it then holds."""
        self.inside("vim.cmd('silent write')")
        return Path(self.inside("return vim.api.nvim_buf_get_name(0)")).read_text()

    def mode(self) -> str:
        return self._rpc.call("nvim_get_mode")["mode"]

    def lines(self) -> list[str]:
        return self.inside("return vim.api.nvim_buf_get_lines(0, 0, -1, true)")

    def cursor(self) -> tuple[int, int]:
        """Line and byte column of the cursor, both from 0."""
        row, column = self.inside("return vim.api.nvim_win_get_cursor(0)")
        return row - 1, column

    def ghost(self) -> Ghost | None:
        """The ghost text, of which there is never more than one."""
        return Frame([], [Ghost(**ghost) for ghost in self.inside("return look.ghosts()")]).ghost

    def shown(self) -> Ghost:
        """The ghost text, waited for."""
        ghost = wait_for(self.ghost, "ghost text")
        assert ghost
        return ghost

    def settled(self) -> Ghost:
        """The ghost text once every request has its answer, the one for what is written now included."""
        wait_for(lambda: self.asked_about_now() and self.ghost(), "ghost text for what is written now")
        return self.shown()

    def asked_about_now(self) -> bool:
        """Whether the last request is about the cursor's place, and all are answered."""
        requests = self.wire.requests()
        row, column = self.cursor()
        place = {"line": row, "character": column}
        document = Path(self.inside("return vim.api.nvim_buf_get_name(0)")).as_uri()
        return (
            bool(requests)
            and requests[-1].params["textDocument"]["uri"] == document
            and requests[-1].params["position"] == place
            and all(request.answer for request in requests)
        )

    def frames(self) -> list[Frame]:
        """Each redraw since the file was opened."""
        return [
            Frame(frame["lines"], [Ghost(**ghost) for ghost in frame["ghosts"]])
            for frame in self.inside("return look.frames")
        ]

    def changed_by(self, keys: str) -> tuple[list[str], Ghost | None]:
        """Press `keys` where ghost text is shown and wait until the text is another.

        The lines as they were, and the ghost text as it was drawn last before they changed: an answer may
        have made it longer after somebody looked.
        """
        before = self.lines()
        self.keys(keys)
        wait_for(lambda: self.lines() != before, f"{keys} changes the text")
        drawn = [frame for frame in self.frames() if frame.lines == before]
        return before, drawn[-1].ghost if drawn else None

    def messages(self) -> str:
        return self.inside("return vim.fn.execute('messages')")

    def _screen(self) -> str:
        return "\n".join(self.terminal.rows()).rstrip()

    def keep(self, folder: Path) -> None:
        """Put down what is on the screen, on the wire and in the messages, for whoever comes to look."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "screen.txt").write_text(self._screen())
        records = self.wire.log.read_bytes() if self.wire.log.exists() else b""
        (folder / "wire.jsonl").write_bytes(records)
        with suppress(OSError, AssertionError, NeovimError):
            (folder / "messages.txt").write_text(self.messages())
