"""Where in one run of bytes the linear weights of a layer lie, so that it moves as a single copy.

A layer's norms are not among them: they are so small that they stay where they are used. Torch-free but for
`LayerLayout.views`: the planner counts bytes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.low_bit.form import ITEM_BYTES, PER_WORD, DTypeName, Form, Part, Shape, parts, supports
from engine.model_config import ModelConfig
from engine.quantization import Quantization

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 256
"""Of every tensor: what CUDA's allocator gives, and more than any kernel asks for."""
PAGE = 4096
"""A layer's size is a multiple of it, so that layers can be mapped and registered one by one."""


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """Linear layers of one input that are stored and multiplied as one, side by side."""

    name: str
    modules: tuple[str, ...]
    """Their names below the layer's own in a checkpoint."""
    in_features: int
    out_features: tuple[int, ...]
    """Of each of the modules."""
    bias: bool

    def quantised(self, how: Quantization) -> Shape:
        """Its shape as one quantised weight."""
        group_size = how.group_of(self.in_features)
        return Shape(self.in_features, sum(self.out_features), group_size, how.bits, how.reordered)


def fused_linears(config: ModelConfig) -> tuple[FusedLinear, ...]:
    """The linear layers of a decoder layer, named as the fields of `engine.layers.Layer`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = tuple(f"self_attn.{name}_proj" for name in "qkv")
    return (
        FusedLinear("qkv", attention, hidden, (queries, keys, keys), config.qkv_bias),
        FusedLinear("attention_out", ("self_attn.o_proj",), queries, (hidden,), config.output_bias),
        FusedLinear("gate_up", ("mlp.gate_proj", "mlp.up_proj"), hidden, (inner, inner), config.mlp_bias),
        FusedLinear("down", ("mlp.down_proj",), inner, (hidden,), config.mlp_bias),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor within a layer's bytes: `name` is a linear's and a part's, as in ``qkv.codes``."""

    name: str
    dtype: DTypeName
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """All linear weights of one layer. Layers that are quantised alike have equal layouts."""

    entries: tuple[Entry, ...]
    size_bytes: int

    @staticmethod
    def of(config: ModelConfig, layer: int, form: Form, dtype: DTypeName) -> LayerLayout:
        """Of `layer`, for a device of that `form`, with what is not quantised in `dtype`."""
        entries: list[Entry] = []
        offset = 0
        for part in _layer_parts(config, layer, form, dtype):
            entry = Entry(part.name, part.dtype, part.shape, offset)
            entries.append(entry)
            offset += -(-entry.size_bytes // ALIGNMENT) * ALIGNMENT
        return LayerLayout(tuple(entries), -(-offset // PAGE) * PAGE)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors that lie in `buffer` [at least size_bytes] uint8, by name; nothing is copied."""
        import torch

        dtypes = {
            "uint8": torch.uint8,
            "int8": torch.int8,
            "int32": torch.int32,
            "fp16": torch.float16,
            "bf16": torch.bfloat16,
            "fp32": torch.float32,
        }
        return {
            entry.name: buffer.narrow(0, entry.offset_bytes, entry.size_bytes)
            .view(dtypes[entry.dtype])
            .view(entry.shape)
            for entry in self.entries
        }


def packed_shape(config: ModelConfig, layer: int, linear: FusedLinear, form: Form) -> Shape | None:
    """In which `linear` of `layer` is stored quantised.

    None if a module is not, if two would share a word, or if `form` cannot hold it.
    """
    how = config.quantization
    if how is None or not all(how.converts(f"model.layers.{layer}.{module}") for module in linear.modules):
        return None
    shape = linear.quantised(how)
    apart = shape.bits == 8 or all(outs % PER_WORD == 0 for outs in linear.out_features)
    return shape if apart and supports(form, shape) else None


def _layer_parts(config: ModelConfig, layer: int, form: Form, dtype: DTypeName) -> Iterator[Part]:
    for linear in fused_linears(config):
        outs = sum(linear.out_features)
        shape = packed_shape(config, layer, linear, form)
        stored = parts(form, shape) if shape else (Part("weight", dtype, (outs, linear.in_features)),)
        for part in stored:
            yield Part(f"{linear.name}.{part.name}", part.dtype, part.shape)
        if linear.bias:
            yield Part(f"{linear.name}.bias", dtype, (outs,))
