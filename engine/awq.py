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

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
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
        dtype, or holds a scale that is not finite, in float16 either.
        """
        group_size = config.group_of(in_features)
        if in_features % group_size or out_features % _PER_WORD:
            raise CheckpointError(
                f"{checkpoint.folder}: {module} is {in_features} by {out_features}, which groups of "
                f"{group_size} and words of {_PER_WORD} do not divide; quantise it with another group size"
            )
        groups, words = in_features // group_size, out_features // _PER_WORD
        return AwqWeight(
            _words(checkpoint, f"{module}.qweight", (in_features, words)),
            _words(checkpoint, f"{module}.qzeros", (groups, words)),
            _scales(checkpoint, f"{module}.scales", (groups, out_features)),
        )

    @staticmethod
    def side_by_side(weights: Sequence[AwqWeight]) -> AwqWeight:
        """One weight with all output features of several that share their input."""
        if len(weights) == 1:
            return weights[0]
        return AwqWeight(
            torch.cat([weight.qweight for weight in weights], dim=1),
            torch.cat([weight.qzeros for weight in weights], dim=1),
            torch.cat([weight.scales for weight in weights], dim=1),
        )

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The plain weight [out_features, in_features]."""
        grouped = unpack(self.qweight).to(dtype).view(-1, self.group_size, self.out_features)
        centred = grouped - unpack(self.qzeros).to(dtype).unsqueeze(1)
        return (centred * self.scales.to(dtype).unsqueeze(1)).flatten(0, 1).t()


def plain_weight(checkpoint: Checkpoint, module: str, in_features: int, out_features: int) -> Tensor:
    """The weight [out_features, in_features] of linear layer `module`, quantised or not.

    One that is comes in the dtype of its scales, as if it were stored dequantised. Raises CheckpointError.
    """
    config = checkpoint.config.quantization
    if config is None or not config.converts(module):
        return checkpoint.floats(f"{module}.weight", (out_features, in_features))
    weight = AwqWeight.read(checkpoint, config, module, in_features, out_features)
    return weight.dequantised(weight.scales.dtype)


def _words(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> Tensor:
    words = checkpoint.tensor(name, shape)
    if words.dtype != torch.int32:
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} is {words.dtype}; expected torch.int32"
        )
    return words


def _scales(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> Tensor:
    scales = checkpoint.floats(name, shape)
    if not bool(scales.half().isfinite().all()):
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} holds more than float16 holds, which "
            "AWQ's kernels read; quantise the model again"
        )
    return scales
