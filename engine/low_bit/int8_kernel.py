"""Torch's kernel for INT8 weights and inputs that are not quantised. On CUDA unverified."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.low_bit.form import Shape
from engine.low_bit.kernel import Parts


class Int8Kernel:
    """On a CPU it is fast on bfloat16 alone, so it is given that whatever x's dtype is.

    A row's result does not depend on how many others come with it.
    """

    name = "int8"

    def takes(self, shape: Shape, rows: int) -> bool:  # noqa: ARG002 - any
        return True

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:  # noqa: ARG002 - the parts have it
        halves = x.to(torch.bfloat16) if x.device.type == "cpu" else x
        product = torch.ops.aten._weight_int8pack_mm(  # noqa: SLF001
            halves.contiguous(), parts["codes"], parts["scales"].to(halves.dtype)
        )
        return product.to(x.dtype)
