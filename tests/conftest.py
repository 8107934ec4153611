"""What every test starts from: one thread, no network, no configuration and no engine of the developer's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported anywhere, and inherited by every process a test starts. More threads than one make
# results depend on the machine, and collapse where another job keeps the cores busy.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave GPU tests out unless ``-m`` names them, whatever else it selects."""
    if "gpu" in (config.getoption("markexpr") or ""):
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]


@pytest.fixture(scope="session", autouse=True)
def home() -> Iterator[Path]:
    """A home folder of the test run's own; its path is short because it holds Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="umb-") as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        patch.setenv("HOME", folder)
        for name in ("CONFIG", "DATA", "STATE", "CACHE"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        patch.setenv("UMBRELLA_RUNTIME_DIR", str(home / "run"))
        patch.delenv("UMBRELLA_CONFIG", raising=False)
        yield home
