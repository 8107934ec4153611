"""The plugin's parts that need neither a screen nor an engine, in a Neovim without an interface."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY
from tests.e2e.neovim.conftest import PROGRAMS, program

HERE = Path(__file__).parent
CASES = [
    *((file, release) for file in ("suggestion_test.lua", "setup_test.lua") for release in PROGRAMS),
    ("native_test.lua", "0.12"),
]
TIMEOUT_S = 60.0


@pytest.mark.parametrize(("cases", "release"), CASES)
def test_lua_cases_hold_and_neovim_ends_by_itself(cases: str, release: str) -> None:
    run = subprocess.run(
        [
            *(program(release), "--clean", "-i", "NONE", "-l", HERE / "cases.lua"),
            *(REPOSITORY / "editors/neovim", HERE / cases),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
