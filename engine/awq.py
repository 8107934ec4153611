"""AWQ INT4 weights (Lin et al. 2023) in GEMM packing, as AutoAWQ and most published checkpoints have it.

A linear layer's weight is three tensors, `qweight`, `qzeros` and `scales`: those that an `Int4Weight` holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.low_bit.weight import PER_WORD, Int4Weight


def read_awq(
    checkpoint: Checkpoint, module: str, in_features: int, out_features: int, group_size: int
) -> Int4Weight:
    """The weight of the linear layer called `module`.

    Raises CheckpointError, naming file and tensor, if a tensor is missing, of another shape or dtype, or
    holds a scale that is not finite, in float16 either.
    """
    require_divisible(checkpoint, module, in_features, out_features, group_size)
    groups, words = in_features // group_size, out_features // PER_WORD
    return Int4Weight(
        read_words(checkpoint, f"{module}.qweight", (in_features, words)),
        read_words(checkpoint, f"{module}.qzeros", (groups, words)),
        read_scales(checkpoint, f"{module}.scales", (groups, out_features)),
    )


def require_divisible(
    checkpoint: Checkpoint, module: str, in_features: int, out_features: int, group_size: int
) -> None:
    """Raise CheckpointError if the weight of `module` cannot be in groups and words."""
    if in_features % group_size or out_features % PER_WORD:
        raise CheckpointError(
            f"{checkpoint.folder}: {module} is {in_features} by {out_features}, which groups of "
            f"{group_size} and words of {PER_WORD} do not divide; quantise it with another group size"
        )


def read_words(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    """Tensor `name`, which must be int32. Raises CheckpointError."""
    words = checkpoint.tensor(name, shape)
    if words.dtype != torch.int32:
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} is {words.dtype}; expected torch.int32"
        )
    return words


def read_scales(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> Tensor:
    """Tensor `name`, which must hold what float16 holds. Raises CheckpointError."""
    scales = checkpoint.floats(name, shape)
    if not bool(scales.half().isfinite().all()):
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} holds more than float16 holds, which "
            "INT4 kernels read; quantise the model again"
        )
    return scales
