"""A decoder layer from a checkpoint's tensors to one run of bytes, in the form that its device multiplies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.awq import AwqWeight, plain_weight
from engine.checkpoint import Checkpoint
from engine.int4.form import DTypeName, Form
from engine.int4.store import stored
from engine.offload.layout import FusedLinear, LayerLayout, fused_linears, is_packed


@torch.inference_mode()
def pack_layer(checkpoint: Checkpoint, layer: int, form: Form, dtype: DTypeName, buffer: Tensor) -> None:
    """Write `layer` into `buffer` [the size of its `LayerLayout`] uint8, zeros between its tensors.

    One linear layer's weights at most are in memory besides. Raises CheckpointError, naming file and tensor,
    for a tensor that is missing, of another shape or dtype, or not finite, and for a group size that does not
    divide.
    """
    config = checkpoint.config
    buffer.zero_()
    views = LayerLayout.of(config, layer, form, dtype).views(buffer)
    for linear in fused_linears(config):
        own = {name: view for name, view in views.items() if name.startswith(f"{linear.name}.")}
        modules = [
            (f"model.layers.{layer}.{module}", size)
            for module, size in zip(linear.modules, linear.out_features, strict=True)
        ]
        packed = is_packed(config, layer, linear, form)
        if packed:
            _pack_int4(checkpoint, modules, linear, form, own)
        end = 0
        for module, size in modules:
            begin, end = end, end + size
            if not packed:
                own[f"{linear.name}.weight"][begin:end] = plain_weight(
                    checkpoint, module, linear.in_features, size
                )
            if linear.bias:
                own[f"{linear.name}.bias"][begin:end] = checkpoint.floats(f"{module}.bias", (size,))


def _pack_int4(
    checkpoint: Checkpoint,
    modules: Sequence[tuple[str, int]],
    linear: FusedLinear,
    form: Form,
    views: Mapping[str, Tensor],
) -> None:
    awq = checkpoint.config.quantization
    assert awq is not None  # or it would not be packed
    weights = [AwqWeight.read(checkpoint, awq, module, linear.in_features, size) for module, size in modules]
    for name, part in stored(AwqWeight.side_by_side(weights), form).items():
        views[f"{linear.name}.{name}"].copy_(part)
