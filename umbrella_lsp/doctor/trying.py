"""Runs the self-test, `umbrella-engine selftest`, as a process of its own: this one never loads a model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine.selftest.verdict import Verdict
from umbrella_lsp.doctor.report import SelfTest

COMMAND = (sys.executable, "-P", "-m", "engine.cli", "selftest", "--json")
ENDING_S = 5.0
"""What the process may take to end once it is asked to."""


def try_models(config: Path | None, command: Sequence[str] = COMMAND) -> SelfTest:
    """What the self-test finds. Its progress goes to our stderr; whatever ends us ends it."""
    options = ["--config", str(config)] if config else []
    try:
        process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        return SelfTest(None, f"no process can be started ({error.strerror}).")
    with _ended(process):
        said, _ = process.communicate()
    try:
        return SelfTest(msgspec.json.decode(said, type=Verdict))
    except msgspec.DecodeError:
        return SelfTest(None, _why(process.returncode))


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Leave no process behind, whatever happens inside."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _why(returncode: int) -> str:
    if returncode < 0:
        return (
            f"its process was ended by signal {-returncode}; if memory ran out, choose smaller checkpoints."
        )
    return f"its process ended with exit code {returncode}. What it said stands above."
