"""What tests of plans have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.offload.sparse import (
    DRAFTER_500M,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    QWEN_32B,
    Shape,
    write_sparse,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    shapes = {"70b": LLAMA_70B, "8b": LLAMA_8B, "1b": LLAMA_1B, "500m": DRAFTER_500M, "32b": QWEN_32B}
    shapes["small"] = Shape(16, 1024, 4096, 8, 8, 0, vocabulary=32_000, max_position=8192)
    for name, shape in shapes.items():
        write_sparse(folder / name, shape)
    return folder
