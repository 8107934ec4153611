"""AWQ INT4 weights (Lin et al. 2023) in GEMM packing, the layout AutoAWQ and most published checkpoints use.

A linear layer's weight is three tensors: `qweight` [in, out / 8] int32, `qzeros` [groups, out / 8] int32
and `scales` [groups, out]. Between input feature i and output feature o it is (q - z) * scale: q is a
nibble of its own, z and scale are shared by i's group. An int32 holds eight neighbouring output
features, in the order of `NIBBLES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.linear import DenseLinear, Linear
from engine.model_config import AwqConfig

NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of an int32, 0 the lowest, holds the first, second, ... of its eight output features."""

_PER_WORD = len(NIBBLES)


@cache
def _shifts(device: torch.device) -> Tensor:
    # Made once: a pass that is recorded as a CUDA graph cannot copy from the host.
    return torch.tensor([4 * nibble for nibble in NIBBLES], dtype=torch.int32, device=device)


def unpack(packed: Tensor) -> Tensor:
    """Int32 [rows, columns / 8] -> uint8 [rows, columns], every value within 0 to 15."""
    # The shift carries the sign in from the left; the mask takes it away again.
    nibbles = (packed.unsqueeze(-1) >> _shifts(packed.device)) & 0xF
    return nibbles.to(torch.uint8).flatten(1)


@dataclass(frozen=True, slots=True)
class AwqWeight:
    """A quantised weight as it is stored: see the module's docstring for shapes."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor

    @property
    def in_features(self) -> int:
        return self.qweight.shape[0]

    @property
    def out_features(self) -> int:
        return self.scales.shape[1]

    @property
    def group_size(self) -> int:
        """Input features a group."""
        return self.in_features // self.scales.shape[0]

    @staticmethod
    def read(
        checkpoint: Checkpoint, config: AwqConfig, module: str, in_features: int, out_features: int
    ) -> AwqWeight:
        """The weight of the linear layer called `module`.

        Raises CheckpointError, naming file and tensor, if a tensor is missing, of another shape or
        dtype, or holds a scale that is not finite.
        """
        group_size = in_features if config.group_size == -1 else config.group_size
        if in_features % group_size or out_features % _PER_WORD:
            raise CheckpointError(
                f"{checkpoint.folder}: {module} is {in_features} by {out_features}, which groups of "
                f"{group_size} and words of {_PER_WORD} do not divide; quantise it with another group size"
            )
        groups, words = in_features // group_size, out_features // _PER_WORD
        return AwqWeight(
            _words(checkpoint, f"{module}.qweight", (in_features, words)),
            _words(checkpoint, f"{module}.qzeros", (groups, words)),
            checkpoint.floats(f"{module}.scales", (groups, out_features)),
        )

    @staticmethod
    def side_by_side(weights: Sequence[AwqWeight]) -> AwqWeight:
        """One weight with all output features of several that share their input."""
        return AwqWeight(
            torch.cat([weight.qweight for weight in weights], dim=1),
            torch.cat([weight.qzeros for weight in weights], dim=1),
            torch.cat([weight.scales for weight in weights], dim=1),
        )

    def to(self, device: torch.device) -> AwqWeight:
        return AwqWeight(self.qweight.to(device), self.qzeros.to(device), self.scales.to(device))

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The plain weight [out_features, in_features]."""
        grouped = unpack(self.qweight).to(dtype).view(-1, self.group_size, self.out_features)
        centred = grouped - unpack(self.qzeros).to(dtype).unsqueeze(1)
        return (centred * self.scales.to(dtype).unsqueeze(1)).flatten(0, 1).t()


def _words(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> Tensor:
    words = checkpoint.tensor(name, shape)
    if words.dtype != torch.int32:
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} is {words.dtype}; expected torch.int32"
        )
    return words


class DequantisingLinear:
    """Keeps the weight packed and unpacks it for every product: right on any device, fast on none."""

    def __init__(self, weight: AwqWeight, bias: Tensor | None) -> None:
        self.in_features = weight.in_features
        self.out_features = weight.out_features
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor, /) -> Tensor:
        return functional.linear(x, self._weight.dequantised(x.dtype), self._bias)


class Int4CpuLinear:
    """Torch's INT4 kernel for CPUs, on a copy packed for the instruction set of this machine.

    It computes (q - 8) * scale + zero, so `zero` is (8 - z) * scale. Only in bfloat16 is it fast; a row's
    result does not depend on how many rows there are.
    """

    def __init__(self, weight: AwqWeight, bias: Tensor | None) -> None:
        self.in_features = weight.in_features
        self.out_features = weight.out_features
        self._group_size = weight.group_size
        codes = unpack(weight.qweight).t().contiguous().to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
        scales = weight.scales.float()
        zeros = (8 - unpack(weight.qzeros).float()) * scales
        self._scales_and_zeros = torch.stack((scales, zeros), dim=-1).to(torch.bfloat16)
        self._bias = bias

    @staticmethod
    def supports(weight: AwqWeight) -> bool:
        """Whether the kernel takes a weight of this shape."""
        return weight.group_size in (32, 64, 128, 256) and weight.out_features % 16 == 0

    def __call__(self, x: Tensor, /) -> Tensor:
        rows = x.to(torch.bfloat16).contiguous()
        product = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
            rows, self._packed, self._group_size, self._scales_and_zeros
        ).to(x.dtype)
        return product if self._bias is None else product + self._bias


def packed_linear(weight: AwqWeight, bias: Tensor | None, device: torch.device) -> Linear:
    """`weight` as a layer that keeps it packed, on `device`."""
    if device.type != "cpu":
        return DequantisingLinear(weight.to(device), bias)
    if Int4CpuLinear.supports(weight):
        return Int4CpuLinear(weight, bias)
    return DenseLinear(weight.dequantised(torch.bfloat16), bias)
