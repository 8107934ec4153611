"""A model of one random block, repeated: as large as wanted, and packed as a checkpoint's layers are.

What streams then has the real form and goes through the real kernels, and no 40 GB are written to disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.offload.checkpoint import write
from benchmarks.offload.shapes import Shape
from engine.checkpoint import Checkpoint
from engine.layers import Layer, LayerStore, Norms
from engine.linear import DenseLinear, RmsNorm
from engine.low_bit.choice import Kernels
from engine.low_bit.form import DTypeName, Form
from engine.model import Transformer
from engine.model_config import ModelConfig
from engine.offload.layout import LayerLayout
from engine.offload.pack import pack_layer
from engine.offload.streamed import LayerBuilder

DTYPES: dict[Form, DTypeName] = {"cpu": "bf16", "cuda": "fp16"}


@dataclass(frozen=True, slots=True)
class RepeatedBlock:
    """A `LayerSource` whose layers are all the same one."""

    block: Tensor
    """[size of a layer] uint8, on the CPU."""
    of_layer: LayerLayout

    def read_into(self, layer: int, buffer: Tensor) -> None:  # noqa: ARG002 - they are all the same
        buffer[: len(self.block)].copy_(self.block)

    def size_bytes(self, layer: int) -> int:  # noqa: ARG002
        return len(self.block)

    def layout(self, layer: int) -> LayerLayout:  # noqa: ARG002
        return self.of_layer

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Synthetic:
    """All of a model but the memory its layers are in."""

    config: ModelConfig
    form: Form
    source: RepeatedBlock
    builder: LayerBuilder
    kernels: Kernels
    whole: Callable[[LayerStore], Transformer]
    """The model with its layers in a store."""

    @staticmethod
    def of(shape: Shape, device: torch.device) -> Synthetic:
        """A model of `shape` for `device`."""
        form: Form = "cuda" if device.type == "cuda" else "cpu"
        dtype = torch.float16 if form == "cuda" else torch.bfloat16
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Checkpoint.open(write(Path(folder), shape.with_layers(1)))
            layout = LayerLayout.of(checkpoint.config, 0, form, DTYPES[form])
            block = torch.empty(layout.size_bytes, dtype=torch.uint8)
            pack_layer(checkpoint, 0, form, DTYPES[form], block)
        layers = shape.num_layers
        config = replace(checkpoint.config, num_layers=layers, windows=layers * checkpoint.config.windows)
        ones = torch.ones(config.hidden_size, dtype=dtype, device=device)
        norm = RmsNorm(ones, config.rms_norm_eps)
        kernels = Kernels.of(form, device, dtype)
        builder = LayerBuilder(config, layers * [Norms(norm, None, norm)], kernels, 1)
        generator = torch.Generator(device).manual_seed(0)
        size = (config.vocab_size, config.hidden_size)
        # In host memory, where the plan puts it beside layers that stream.
        embedding = torch.randn(size, generator=generator, device=device, dtype=dtype).cpu()
        head = DenseLinear(torch.randn(size, generator=generator, device=device, dtype=dtype))

        def whole(store: LayerStore) -> Transformer:
            return Transformer(config, embedding, store, norm, head, 1, device)

        return Synthetic(config, form, RepeatedBlock(block, layout), builder, kernels, whole)

    def layers(self, memory: Tensor) -> list[Layer]:
        """Every layer, each of what lies in `memory` [size of a layer] uint8."""
        linears = self.builder.linears(self.source.of_layer, memory)
        return [self.builder.layer(layer, linears) for layer in range(self.config.num_layers)]
