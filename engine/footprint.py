"""How much memory a configuration needs, and how much there is. Torch-free: only headers are read.

An estimate from below: what a pass works with comes on top, and what the system can take back from files is
counted as free.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from engine.checkpoint import find, read_header, weight_files
from engine.config import EngineConfig
from engine.errors import CheckpointError
from engine.model_config import ModelConfig, read_model_config

GIB = 1 << 30
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one checkpoint takes in memory."""

    folder: Path
    architecture: ModelConfig
    weights_bytes: int
    slot_bytes: int
    """Of keys and values of one full context."""


def footprint(name: str, config: EngineConfig, *, on_gpu: bool) -> Footprint:
    """Of the checkpoint `name`, as `config` has it loaded. Raises CheckpointError if it is not whole."""
    folder = find(name)
    architecture = read_model_config(folder)
    size = _float_bytes(config, architecture, on_gpu=on_gpu)
    length = min(config.max_length or architecture.max_position, architecture.max_position)
    numbers = 2 * architecture.num_layers * architecture.num_kv_heads * architecture.head_dim * length
    weights = sum(_loaded_bytes(file, size) for file in weight_files(folder))
    return Footprint(folder, architecture, weights, numbers * size)


def needed_bytes(config: EngineConfig, *, on_gpu: bool) -> int:
    """Memory that the models of `config` take. Raises CheckpointError if one of them is not whole.

    On a GPU every slot takes all of its memory at once; elsewhere only as far as it is filled.
    """
    names = [name for name in (config.model, config.model_drafted_with) if name]
    found = [footprint(name, config, on_gpu=on_gpu) for name in names]
    slots = config.slots * sum(each.slot_bytes for each in found) if on_gpu else 0
    return sum(each.weights_bytes for each in found) + slots


def free_bytes() -> int | None:
    """Memory of the machine that a new process can have; None where the system does not tell."""
    return _meminfo().get("MemAvailable")


def total_bytes() -> int | None:
    """Memory of the machine; None where the system does not tell."""
    return _meminfo().get("MemTotal")


def gib(size_bytes: int) -> str:
    """For people."""
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB")):
        if size_bytes >= unit // 10:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes / 1024:.1f} KiB"


def _meminfo() -> dict[str, int]:
    """``/proc/meminfo`` in bytes; nothing on another system than Linux."""
    if sys.platform != "linux":
        return {}
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in pairs if words[2:] == ["kB"]}


def _float_bytes(config: EngineConfig, architecture: ModelConfig, *, on_gpu: bool) -> int:
    """Bytes of a number as it is computed with; see `engine.weights.choose_dtype`."""
    if config.dtype != "auto":
        return 4 if config.dtype == "fp32" else 2
    return 2 if on_gpu or architecture.quantization is not None else 4


def _loaded_bytes(file: Path, float_bytes: int) -> int:
    """What the tensors of `file` take once floating-point ones are of `float_bytes` each."""
    try:
        _, header = read_header(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged or cut short; fetch it again") from error
    total = 0
    for entry in header.values():
        begin, end = cast("list[int]", entry["data_offsets"])
        if str(entry["dtype"]) in _FLOAT_BYTES:
            total += float_bytes * math.prod(cast("list[int]", entry["shape"]))
        else:
            total += end - begin
    return total
