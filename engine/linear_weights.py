"""The weight of a linear layer from a checkpoint, however it is stored there, or is to be stored by us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from engine.awq import read_awq
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.gptq import read_gptq
from engine.low_bit.int8 import Int8Weight
from engine.low_bit.weight import PER_WORD, Int4Weight
from engine.quantization import Quantization
from engine.rounding import to_int4, to_int8


def quantised_weight(
    checkpoint: Checkpoint, how: Quantization, modules: Sequence[tuple[str, int]], in_features: int
) -> Int4Weight | Int8Weight:
    """Of `modules`, each with its output features, side by side: linear layers of one input.

    Raises CheckpointError, naming file and tensor, for one that cannot be used.
    """
    weights = [_quantised(checkpoint, how, module, in_features, size) for module, size in modules]
    if how.bits == 8:
        return Int8Weight.side_by_side(cast("list[Int8Weight]", weights))
    words = cast("list[Int4Weight]", weights)
    first = words[0].order
    for (module, _), weight in zip(modules, words, strict=True):
        if first is not None and weight.order is not None and not torch.equal(first, weight.order):
            raise CheckpointError(
                f"{checkpoint.file(f'{module}.g_idx')}: {module} orders its inputs otherwise than "
                f"{modules[0][0]}, which has the same; quantise the model again with desc_act = false"
            )
    return Int4Weight.side_by_side(words)


def plain_weight(checkpoint: Checkpoint, module: str, in_features: int, out_features: int) -> Tensor:
    """The weight [out_features, in_features] of linear layer `module`, quantised or not.

    One that is comes in the dtype of its scales, as if it were stored dequantised. Raises CheckpointError.
    """
    how = checkpoint.config.quantization
    if how is None or not how.converts(module) or not _can_be(how, in_features, out_features):
        return checkpoint.floats(f"{module}.weight", (out_features, in_features))
    weight = _quantised(checkpoint, how, module, in_features, out_features)
    return weight.dequantised(weight.scales.dtype)


def _can_be(how: Quantization, in_features: int, out_features: int) -> bool:
    """Whether a weight of that shape can be quantised; what others quantised is looked at when it is read."""
    whole = in_features % how.group_of(in_features) == 0 and out_features % PER_WORD == 0
    return how.method != "rounded" or how.bits == 8 or whole


def _quantised(
    checkpoint: Checkpoint, how: Quantization, module: str, in_features: int, out_features: int
) -> Int4Weight | Int8Weight:
    match how.method:
        case "awq":
            return read_awq(checkpoint, module, in_features, out_features, how.group_of(in_features))
        case "gptq" | "gptq_v2":
            return read_gptq(checkpoint, how, module, in_features, out_features)
        case "rounded":
            dense = checkpoint.floats(f"{module}.weight", (out_features, in_features))
            return to_int8(dense) if how.bits == 8 else to_int4(dense, how.group_of(in_features))
