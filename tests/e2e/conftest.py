"""Whole processes: the installed commands, a desk to run them at, and a real Neovim."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked ``e2e``."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the fixtures, which keep what was seen, that a test has failed."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


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
        return [process for process, arguments in self._processes() if b"engine.cli" in arguments]

    def sockets(self) -> set[str]:
        """Addresses, in the kernel's own notation, of the internet sockets that our processes here hold."""
        held: set[str] = set()
        for process, arguments in self._processes():
            if "python" in Path(os.fsdecode(arguments[0])).name:
                with suppress(OSError):
                    held |= {str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()}
        found: set[str] = set()
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, remote, *_, inode = row.split()[:10]
                if f"socket:[{inode}]" in held:
                    found.add(f"{table} {local} to {remote}")
        return found

    def _processes(self) -> Iterator[tuple[int, list[bytes]]]:
        """Ids and arguments of the processes that were started at this desk."""
        runtime = f"UMBRELLA_RUNTIME_DIR={self.environment['UMBRELLA_RUNTIME_DIR']}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if runtime in (process / "environ").read_bytes().split(b"\0"):
                    yield int(process.name), arguments
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile, or is another user's


@contextmanager
def desk_in(home: Path) -> Generator[Desk]:
    """A desk with `home` for a home, whose engine is stopped at the end, and seen to be gone."""
    with tempfile.TemporaryDirectory(prefix="umb-") as runtime:
        environment = os.environ | {
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}",
            "UMBRELLA_RUNTIME_DIR": runtime,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CACHE_HOME": str(home / "cache"),
        }
        folder = home / "work"
        folder.mkdir()
        desk = Desk(folder, environment)
        yield desk
        stopped = desk.run("umbrella-engine", "stop")
        until(lambda: not desk.engines(), f"the engine is gone ({stopped.stdout}{stopped.stderr})")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk of this test's own."""
    with desk_in(tmp_path) as desk:
        yield desk
