"""The suggestion in a real Neovim, set up as editors/neovim/README.md says."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY, Desk

DRIVER = Path(__file__).with_name("drive_nvim.lua")
PLUGIN = REPOSITORY / "editors/neovim"


@pytest.fixture
def configured(desk: Desk) -> Desk:
    """The desk of someone who followed the README: the package linked, its lines in init.lua."""
    start = Path(desk.environment["XDG_DATA_HOME"], "nvim/site/pack/umbrella/start")
    start.mkdir(parents=True)
    (start / "umbrella").symlink_to(PLUGIN)
    lines = re.search(r"```lua\n(.*?)```", (PLUGIN / "README.md").read_text(), re.DOTALL)
    assert lines is not None
    init = Path(desk.environment["XDG_CONFIG_HOME"], "nvim/init.lua")
    init.parent.mkdir(parents=True)
    init.write_text(lines[1])
    return desk


def test_neovim_shows_the_suggestion_and_tab_accepts_it(nvim: Path, configured: Desk) -> None:
    path = configured.folder / "account.py"
    path.write_text("class Account:\n    def __init__(self, name):\n")

    driven = subprocess.run(
        [nvim, "-l", DRIVER, nvim, path, "Goself.name = "],
        cwd=configured.folder,
        env=configured.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert driven.returncode == 0, driven.stderr
    seen = json.loads(driven.stdout)
    assert seen["before"][-1] == "        self.name = "
    line, column = seen["cursor"]
    before = "\n".join(seen["before"])
    at = len("\n".join([*seen["before"][: line - 1], ""])) + column
    assert seen["ghost"].strip()
    assert "\n".join(seen["after"]) == before[:at] + seen["ghost"] + before[at:]
    assert path.read_text() == "\n".join([*seen["after"], ""])
