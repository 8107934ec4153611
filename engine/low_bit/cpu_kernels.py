"""Torch's INT4 kernel for CPUs. It is fast on bfloat16 alone, so it is given that whatever x's dtype is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.low_bit.form import Shape
from engine.low_bit.kernel import Parts


@dataclass(frozen=True, slots=True)
class CpuKernel:
    """Multiplies `rows` rows at a time, or all at once if that is 0.

    A row's result does not depend on how many others come with it, so every choice of `rows` gives the same
    bits. Many rows at once fall out of the processor's caches.
    """

    rows: int = 0

    @property
    def name(self) -> str:
        return f"{self.rows} rows" if self.rows else "all rows"

    def takes(self, shape: Shape, rows: int) -> bool:  # noqa: ARG002 - any
        return self.rows < rows or self.rows == 0

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        halves, step = x.to(torch.bfloat16).contiguous(), self.rows or len(x)
        products = [_multiply(halves[first : first + step], parts, shape) for first in range(0, len(x), step)]
        return (products[0] if len(products) == 1 else torch.cat(products)).to(x.dtype)


def _multiply(x: Tensor, parts: Parts, shape: Shape) -> Tensor:
    return torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
        x, parts["codes"], shape.group_size, parts["scales_and_zeros"]
    )
