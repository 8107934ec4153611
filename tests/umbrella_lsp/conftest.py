"""What tests of the server as a process start from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.umbrella_lsp.scripted_engine import Script, running


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="umb-") as folder:
        yield Path(folder) / "run"


@pytest.fixture
def engine(runtime_dir: Path) -> Iterator[Script]:
    """An engine that says what it is told to."""
    with running(runtime_dir) as script:
        yield script
