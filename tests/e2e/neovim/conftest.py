"""Real Neovims: 0.12 without the plugin, 0.11 and 0.12 with it, set up as editors/neovim/README.md says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import wiretap
from tests.e2e.conftest import COMMANDS, FAILED, REPOSITORY, Desk, desk_in
from tests.e2e.neovim.editor import Ghost, Neovim, wait_for
from tests.e2e.wire import Wire

PROGRAMS = {
    "0.11": COMMANDS / "nvim",
    "0.12": REPOSITORY / ".cache/nvim/bin/nvim",
}
"""The one that pip installs, and the one that install_nvim.sh makes; never simply the one on PATH."""
README = REPOSITORY / "editors/neovim/README.md"
ACCOUNT = """class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
"""
"""The model writes several lines below it."""
PROJECT = "pyproject.toml"
KEPT = REPOSITORY / ".cache/e2e"


def program(release: str) -> Path:
    """The Neovim of this release, which is seen to be of it."""
    path = PROGRAMS[release]
    if not path.exists():
        reason = f"no Neovim {release} here; pip's test extra brings 0.11, tests/e2e/install_nvim.sh 0.12"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = [int(number) for number in re.findall(r"\d+", text)[:2]]
    wanted = [int(number) for number in release.split(".")]
    assert found == wanted or (release == max(PROGRAMS) and found > wanted), f"{path} is {text[:12]}"
    return path


def readme_block(language: str, containing: str) -> str:
    """The first block of the README in this language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    return next(block for block in blocks if containing in block)


@pytest.fixture(scope="package")
def neovim_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One user with several Neovims, one at a time, and one engine."""
    with desk_in(tmp_path_factory.mktemp("neovim")) as desk:
        (desk.folder / PROJECT).touch()
        yield desk


@dataclass(frozen=True, slots=True)
class Setup:
    """A release of Neovim, and a text in each block of the README that goes into init.lua."""

    release: str
    lines: tuple[str, ...]


ALONE, PLUGIN = "vim.lsp.inline_completion.enable()", "require('umbrella').setup"
SETUPS = {
    "level_one": {"0.12 alone": Setup("0.12", (ALONE,))},
    "level_two": {f"{release} with the plugin": Setup(release, (PLUGIN,)) for release in ("0.11", "0.12")},
    "both_levels": {"0.12 with both": Setup("0.12", (ALONE, PLUGIN))},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in each setup of the level that it asks for; all tests of one, then all of the next."""
    for name, setups in SETUPS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize("booted", setups.values(), ids=setups, indirect=True, scope="package")


@pytest.fixture(scope="package")
def booted(
    request: pytest.FixtureRequest, neovim_desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Neovim]:
    """Someone who followed the README word by word."""
    setup: Setup = request.param
    home = tmp_path_factory.mktemp("home")
    wire = Wire(home / "wire.jsonl")
    tap = home / "bin/umbrella-lsp"
    tap.parent.mkdir(parents=True)
    server = shlex.join([sys.executable, wiretap.__file__, str(wire.log), str(COMMANDS / "umbrella-lsp")])
    tap.write_text(f'#!/bin/sh\nexec {server} "$@"\n')
    tap.chmod(0o755)
    environment = neovim_desk.environment | {
        "HOME": str(home),
        "PATH": f"{tap.parent}{os.pathsep}{neovim_desk.environment['PATH']}",
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_STATE_HOME": str(home / ".local/state"),
    }
    package = readme_block("sh", "ln -s")
    subprocess.run(["bash", "-euc", package], cwd=REPOSITORY, env=environment, check=True)
    config = home / ".config/nvim/init.lua"
    config.parent.mkdir(parents=True)
    config.write_text("\n".join(readme_block("lua", line) for line in setup.lines))
    neovim = Neovim(program(setup.release), neovim_desk.folder, environment, wire)
    # The model is small and seldom sure. This is how the README has settings set.
    neovim.inside("vim.lsp.config('umbrella', { settings = { umbrella = { min_confidence = 0 } } })")
    yield neovim
    neovim.close()


@pytest.fixture
def level_one(booted: Neovim, request: pytest.FixtureRequest) -> Iterator[Neovim]:
    """Neovim without the plugin."""
    yield from _for_one_test(booted, request)


@pytest.fixture
def level_two(booted: Neovim, request: pytest.FixtureRequest) -> Iterator[Neovim]:
    """Neovim with the plugin."""
    yield from _for_one_test(booted, request)


@pytest.fixture
def both_levels(booted: Neovim, request: pytest.FixtureRequest) -> Iterator[Neovim]:
    """Neovim that has been told to draw suggestions by itself, and with the plugin."""
    yield from _for_one_test(booted, request)


def _for_one_test(neovim: Neovim, request: pytest.FixtureRequest) -> Iterator[Neovim]:
    """A failure leaves what was seen in .cache/e2e; no test finds another's files."""
    neovim.wire.mark()
    yield neovim
    if request.node.stash.get(FAILED, False):
        neovim.keep(KEPT / re.sub(r"[^\w.-]+", "-", request.node.name))
    for path in {*neovim.folder.iterdir()} - {neovim.folder / PROJECT}:
        path.unlink()


def several_lines(neovim: Neovim) -> Ghost:
    """Ghost text of more than one line, all of which is there: asked for, it comes when it is whole."""
    neovim.settled()
    asked = len(neovim.wire.requests())
    neovim.keys("<M-Bslash>")
    wait_for(lambda: len(neovim.wire.requests()) > asked, "it is asked for")
    ghost = neovim.settled()
    assert "\n" in ghost.text
    return ghost


@contextmanager
def stopped(desk: Desk) -> Generator[None]:
    """The engine answers nobody meanwhile."""
    [engine] = desk.engines()
    os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine, signal.SIGCONT)


def typed_fast(neovim: Neovim, desk: Desk) -> Ghost:
    """Ask at each of three keys while nobody answers, and return what shows once somebody does."""
    neovim.open("fast.py", ACCOUNT, keys="o")
    neovim.settled()
    neovim.wire.mark()
    with stopped(desk):
        for count, key in enumerate("qvz", start=1):
            neovim.keys(key)
            wait_for(lambda count=count: len(neovim.wire.requests()) == count, f"{key} asks")
    return neovim.settled()


def engine_killed(neovim: Neovim, desk: Desk) -> int:
    """Kill the engine and ask for a suggestion after that; the process that it was."""
    neovim.open("killed.py", ACCOUNT, keys="o")
    neovim.settled()
    [engine] = desk.engines()
    os.kill(engine, signal.SIGKILL)
    neovim.open("after.py", ACCOUNT, keys="o")
    return engine
