"""Which files hold a checkpoint's weights, and what their headers say. Safetensors only. Torch-free.

Never pickle: reading one runs what it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from engine.errors import CheckpointError
from engine.model_config import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""As safetensors itself allows."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """The weight files of a checkpoint, all of which exist, and the tensors that its index expects in each.

    Raises CheckpointError if there are none or one is missing.
    """
    files = expected_files(folder)
    missing = sorted(path.name for path in files if not path.is_file())
    if missing == [SINGLE]:
        raise CheckpointError(f"{folder} {lacks_safetensors(path.name for path in folder.iterdir())}")
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}, which {INDEX} names; fetch the model again"
        )
    return files


def expected_files(folder: Path) -> dict[Path, set[str]]:
    """As `weight_files`, but whether they exist or not. Raises CheckpointError for a damaged index."""
    index = folder / INDEX
    if (folder / SINGLE).is_file() or not index.is_file():
        return {folder / SINGLE: set()}
    shards: dict[Path, set[str]] = {}
    for name, shard in read_json(index, _IndexFile).weight_map.items():
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: tensor {name} is said to be in {shard!r}, which is no file name")
        shards.setdefault(folder / shard, set()).add(name)
    return shards


def lacks_safetensors(names: Iterable[str]) -> str:
    """What is wrong with a checkpoint of files `names`, none of which is for us, and what to do about it."""
    pickles = sorted(name for name in names if Path(name).suffix in _PICKLES)
    if not pickles:
        return f"holds neither {SINGLE} nor {INDEX}; only safetensors are read"
    return (
        f"has its weights only as pickle ({pickles[0]}), which can run code when it is read; only "
        "safetensors are read. Look for another copy; or let the hub's own "
        "https://huggingface.co/spaces/safetensors/convert add a revision that holds them; or, if you trust "
        "it, load it elsewhere with transformers and save it with save_pretrained"
    )


def read_header(path: Path) -> tuple[int, dict[str, dict[str, object]]]:
    """Where in a weight file its tensors begin, and what its header says of each.

    Raises OSError, or ValueError if it is damaged.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError
        header = cast("dict[str, dict[str, object]]", json.loads(file.read(length)))
    return 8 + length, {name: entry for name, entry in header.items() if name != "__metadata__"}


@dataclass(frozen=True, slots=True)
class _IndexFile:
    """`model.safetensors.index.json`."""

    weight_map: dict[str, str]
