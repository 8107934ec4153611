"""A LoRA adapter in memory, and how a layer computes with it: y = base(x) + scaling * B A x (Hu et al. 2021).

Nothing is merged into the base's weights: they may be INT4, stream from elsewhere, and serve other requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint, open_shard
from engine.errors import CheckpointError
from engine.layers import Layer
from engine.linear import Linear, fixed_rows
from engine.lora.files import AdapterFiles, Factors
from engine.model_config import ModelConfig
from engine.offload.layout import FusedLinear, fused_linears


@dataclass(frozen=True, slots=True)
class Part:
    """One module's share of a `LowRank`."""

    start: int
    """Its first output feature among those of the fused linear."""
    rank: int
    up: Tensor
    """scaling * B, transposed: [rank, out]."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one fused linear: its modules share their input, but each has output of its own."""

    down: Tensor
    """A of every part, side by side and transposed: [in, sum of ranks]."""
    parts: tuple[Part, ...]

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` [rows, out], changed in place, for the input `x` [rows, in]."""
        narrow = x @ self.down
        at = 0
        for part in self.parts:
            place = y.narrow(1, part.start, part.up.shape[1])
            place.addmm_(narrow.narrow(1, at, part.rank), part.up)
            at += part.rank
        return y


class AdaptedLinear:
    """A linear layer, whatever its form, with what an adapter adds to it."""

    def __init__(self, inner: Linear, low_rank: LowRank) -> None:
        self.in_features, self.out_features = inner.in_features, inner.out_features
        self._inner = inner
        self._low_rank = low_rank

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._low_rank.add_to(self._inner(x), x)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What is added to each layer of one model. One that is read again is another, whatever it is called."""

    layers: tuple[Mapping[str, LowRank], ...] = field(repr=False)
    """By layer, and by the name of the fused linear."""
    row_multiple: int
    """As the model's own: see `engine.model.Transformer`."""

    @staticmethod
    def load(
        files: AdapterFiles,
        config: ModelConfig,
        dtype: torch.dtype,
        device_of: Callable[[int], torch.device],
        row_multiple: int = 1,
    ) -> Adapter:
        """Read `files` for a model of `config` that computes in `dtype`, each layer's part where it runs.

        Raises CheckpointError, naming file and tensor, for a number that is not finite or too large.
        """
        tensors = Checkpoint(files.weights.parent, config, {files.weights: open_shard(files.weights)}, 0)

        def placed(name: str, scaling: float, device: torch.device, *shape: int) -> Tensor:
            stored = tensors.floats(name, shape).float()
            tensor = (stored * scaling).to(dtype)
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"{files.weights}: tensor {name} holds numbers too large for {dtype}; set dtype to bf16"
                )
            return tensor.t().contiguous().to(device)

        def low_rank(linear: FusedLinear, of: Mapping[str, Factors], device: torch.device) -> LowRank:
            downs: list[Tensor] = []
            parts: list[Part] = []
            start = 0
            for module, out in zip(linear.modules, linear.out_features, strict=True):
                if factors := of.get(module):
                    downs.append(placed(factors.a, 1.0, device, factors.rank, linear.in_features))
                    up = placed(factors.b, factors.scaling, device, out, factors.rank)
                    parts.append(Part(start, factors.rank, up))
                start += out
            return LowRank(torch.cat(downs, dim=1), tuple(parts))

        return Adapter(
            tuple(
                {
                    linear.name: low_rank(linear, factors, device_of(index))
                    for linear in fused_linears(config)
                    if not factors.keys().isdisjoint(linear.modules)
                }
                for index, factors in enumerate(files.layers)
            ),
            row_multiple,
        )

    def around(self, index: int, layer: Layer) -> Layer:
        """Layer `index` of the model, `layer`, with what this adds to it."""
        added = self.layers[index]

        def adapted(name: str, inner: Linear) -> Linear:
            low_rank = added.get(name)
            if low_rank is None:
                return inner
            return fixed_rows(AdaptedLinear(inner, low_rank), self.row_multiple)

        return replace(
            layer,
            qkv=adapted("qkv", layer.qkv),
            attention_out=adapted("attention_out", layer.attention_out),
            gate_up=adapted("gate_up", layer.gate_up),
            down=adapted("down", layer.down),
        )
