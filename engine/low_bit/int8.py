"""An INT8 weight of a linear layer. It knows nothing of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.low_bit.form import Form


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """`codes` [out, in] int8, each times its output feature's own of `scales` [out] float16."""

    codes: Tensor
    scales: Tensor

    @staticmethod
    def side_by_side(weights: Sequence[Int8Weight]) -> Int8Weight:
        """One weight with all output features of several that share their input."""
        return Int8Weight(
            torch.cat([weight.codes for weight in weights]), torch.cat([weight.scales for weight in weights])
        )

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The plain weight [out_features, in_features]."""
        return self.codes.to(dtype) * self.scales.to(dtype).unsqueeze(1)

    def stored(self, form: Form) -> dict[str, Tensor]:
        """The tensors that `engine.low_bit.form.parts` names."""
        scales = self.scales.to(torch.bfloat16 if form == "cpu" else torch.float16)
        return {"codes": self.codes, "scales": scales}
