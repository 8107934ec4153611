"""An INT4 weight of a linear layer, whoever quantised it, and the forms in which devices keep it.

It is held as AutoAWQ's words, which our CUDA kernels read: `qweight` [in, out / 8] int32, `qzeros`
[groups, out / 8] int32 and `scales` [groups, out]. Between input feature i and output feature o the weight is
(q - z) * scale: q is a nibble of its own, z and scale are shared by i's group. An int32 holds eight
neighbouring output features, in the order of `NIBBLES`. It knows nothing of checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from engine.low_bit.form import Form

NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of an int32, 0 the lowest, holds the first, second, ... of its eight output features."""
PER_WORD = len(NIBBLES)

_CHUNK = 256
"""Output features that are repacked at a time: a multiple of every block that torch's CPU kernels know."""


@cache
def _shifts(device: torch.device) -> Tensor:
    # Made once: a pass that is recorded as a CUDA graph cannot copy from the host.
    return torch.tensor([4 * nibble for nibble in NIBBLES], dtype=torch.int32, device=device)


def unpack(packed: Tensor) -> Tensor:
    """Int32 [rows, columns / 8] -> uint8 [rows, columns], every value within 0 to 15."""
    # The shift carries the sign in from the left; the mask takes it away again.
    nibbles = (packed.unsqueeze(-1) >> _shifts(packed.device)) & 0xF
    return nibbles.to(torch.uint8).flatten(1)


def pack(values: Tensor) -> Tensor:
    """Undo `unpack`: [rows, columns] of values within 0 to 15 -> int32 [rows, columns / 8]."""
    nibbles = values.to(torch.int32).reshape(len(values), -1, PER_WORD) << _shifts(values.device)
    return nibbles.sum(-1, dtype=torch.int32)  # Of bits that are apart, the sum is the union.


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """See the module's docstring for shapes."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    order: Tensor | None = None
    """[in] int32: the input feature that each row of `qweight` belongs to; None if they are in order."""

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
    def side_by_side(weights: Sequence[Int4Weight]) -> Int4Weight:
        """One weight with all output features of several that share their input, and its order."""
        if len(weights) == 1:
            return weights[0]
        return Int4Weight(
            torch.cat([weight.qweight for weight in weights], dim=1),
            torch.cat([weight.qzeros for weight in weights], dim=1),
            torch.cat([weight.scales for weight in weights], dim=1),
            weights[0].order,
        )

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The plain weight [out_features, in_features], its input features in their own order."""
        grouped = unpack(self.qweight).to(dtype).view(-1, self.group_size, self.out_features)
        centred = grouped - unpack(self.qzeros).to(dtype).unsqueeze(1)
        rows = (centred * self.scales.to(dtype).unsqueeze(1)).flatten(0, 1)
        if self.order is not None:
            rows = torch.empty_like(rows).index_copy_(0, self.order.long(), rows)
        return rows.t()

    @torch.inference_mode()
    def stored(self, form: Form) -> dict[str, Tensor]:
        """The tensors that `engine.low_bit.form.parts` names, on the CPU, of a weight that has that form.

        They may share memory with this. What the CPU's kernel computes is (q - 8) * scale + zero, so its zero
        is (8 - z) * scale.
        """
        order = {} if self.order is None else {"order": self.order}
        if form == "cuda":
            return {"codes": self.qweight, "zeros": self.qzeros, "scales": self.scales.half(), **order}
        scales = self.scales.float()
        zeros = (8 - unpack(self.qzeros).float()) * scales
        return {
            "codes": _cpu_codes(self.qweight),
            "scales_and_zeros": torch.stack((scales, zeros), dim=-1).to(torch.bfloat16),
            **order,
        }


def _cpu_codes(qweight: Tensor) -> Tensor:
    """Int32 [in, out / 8] -> uint8 [out, in / 2], a piece at a time: a code takes four bytes on the way."""
    shifts = _shifts(qweight.device).view(-1, 1)
    packed = torch.empty(PER_WORD * qweight.shape[1], len(qweight) // 2, dtype=torch.uint8)
    for first in range(0, qweight.shape[1], _CHUNK // PER_WORD):
        words = qweight[:, first : first + _CHUNK // PER_WORD].t().contiguous().unsqueeze(1)
        codes = (words >> shifts).bitwise_and_(0xF).flatten(0, 1)
        piece = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
        packed[PER_WORD * first :][: len(piece)] = piece
    return packed
