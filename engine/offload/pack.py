"""A decoder layer from a checkpoint's tensors to one run of bytes, in the form that its device multiplies."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.linear_weights import plain_weight, quantised_weight
from engine.low_bit.form import DTypeName, Form
from engine.offload.layout import LayerLayout, fused_linears, packed_shape


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
        how = config.quantization if packed_shape(config, layer, linear, form) else None
        if how is not None:
            weight = quantised_weight(checkpoint, how, modules, linear.in_features)
            for name, part in weight.stored(form).items():
                own[f"{linear.name}.{name}"].copy_(part)
        end = 0
        for module, size in modules:
            begin, end = end, end + size
            if how is None:
                own[f"{linear.name}.weight"][begin:end] = plain_weight(
                    checkpoint, module, linear.in_features, size
                )
            if linear.bias:
                own[f"{linear.name}.bias"][begin:end] = checkpoint.floats(f"{module}.bias", (size,))
