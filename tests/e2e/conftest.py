"""Whole processes: the installed commands, a desk to run them at, and a real Neovim."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked ``e2e``."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def until(condition: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    """Return as soon as `condition` holds; fail with `what` when it never does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Desk:
    """One user: a folder of files, an environment, and the engine that belongs to it."""

    folder: Path
    environment: dict[str, str]

    def command(self, name: str) -> str:
        path = COMMANDS / name
        assert path.exists(), f"{path} is missing: pip install -e '.[test]' into this environment"
        return str(path)

    def run(self, *command: str | Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run one of our commands to its end; stdout and stderr are kept."""
        return subprocess.run(
            [self.command(str(command[0])), *map(str, command[1:])],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start one of our commands with pipes for its three streams."""
        return subprocess.Popen(
            [self.command(str(command[0])), *map(str, command[1:])],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def engines(self) -> list[int]:
        """Process ids of the engines that serve this desk."""
        runtime = f"UMBRELLA_RUNTIME_DIR={self.environment['UMBRELLA_RUNTIME_DIR']}".encode()
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if b"engine.cli" in arguments and runtime in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile, or is another user's
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk whose engine is stopped at the end, and seen to be gone."""
    with tempfile.TemporaryDirectory(prefix="umb-") as runtime:
        environment = os.environ | {
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}",
            "UMBRELLA_RUNTIME_DIR": runtime,
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        folder = tmp_path / "work"
        folder.mkdir()
        desk = Desk(folder, environment)
        yield desk
        stopped = desk.run("umbrella-engine", "stop")
        until(lambda: not desk.engines(), f"the engine is gone ({stopped.stdout}{stopped.stderr})")


def has_inline_completion(nvim: Path) -> bool:
    asked = [nvim, "--clean", "--headless", "-c", "lua os.exit(vim.lsp.inline_completion and 0 or 1)"]
    return subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def nvim() -> Path:
    """A Neovim with inline completion: the one install_nvim.sh made, or the machine's own."""
    candidates = [REPOSITORY / ".cache/nvim/bin/nvim", Path(shutil.which("nvim") or "nvim")]
    for candidate in candidates:
        if candidate.exists() and has_inline_completion(candidate):
            return candidate
    reason = "no Neovim 0.12 here; tests/e2e/install_nvim.sh gets one"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
