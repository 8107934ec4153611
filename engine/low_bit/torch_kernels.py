"""Products with quantised weights by torch's own operators alone: right on any device, fast on none.

INT4 weights are in AutoAWQ's words, as on CUDA. These products are what other kernels are
compared with, and what is left where there is no other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.low_bit.form import SCRATCH_BYTES, Shape
from engine.low_bit.kernel import Parts
from engine.low_bit.weight import Int4Weight

_BLOCK_BYTES = SCRATCH_BYTES // 2
_BYTES_A_WEIGHT = 20
"""What unpacking INT4 takes on the way, int32 codes and float32 weights included."""
_ALLOWED = 2.0
"""In units of the dtype's precision: ten times what rounding a number at random is off by."""


class PlainKernel:
    """Unpacks a block of columns, multiplies with it in x's dtype, and goes on to the next."""

    name = "plain"

    def takes(self, shape: Shape, rows: int) -> bool:  # noqa: ARG002 - any
        return True

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        product = x.new_empty(len(x), shape.out_features)
        for columns, weight in _blocks(parts, shape, x.dtype):
            product[:, columns] = x @ weight
        return product


def agrees(product: Tensor, x: Tensor, parts: Parts, shape: Shape) -> bool:
    """Whether `product` is x times the weight, but for rounding.

    Weights and result are each rounded to x's dtype. Errors of rounding add up as a random walk does, so the
    allowance grows with the root of the sum of the squares that make up a sum, and not with the sum.
    """
    eps = torch.finfo(x.dtype).eps
    exact = x.float()
    for columns, weight in _blocks(parts, shape, torch.float32):
        expected = exact @ weight
        allowed = _ALLOWED * eps * (exact.square() @ weight.square()).sqrt() + 2 * eps * expected.abs()
        if not bool(((product[:, columns].float() - expected).abs() <= allowed).all()):
            return False
    return True


def _blocks(parts: Parts, shape: Shape, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Some output features, and their weights [in_features, features], rounded to `dtype` once."""
    step = 8 * max(1, _BLOCK_BYTES // (_BYTES_A_WEIGHT * shape.in_features * 8))
    for first in range(0, shape.out_features, step):
        columns = slice(first, first + step)
        if shape.bits == 8:
            scales = parts["scales"][columns].to(dtype)
            yield columns, (parts["codes"][columns].to(dtype) * scales.unsqueeze(1)).t()
            continue
        words = slice(first // 8, (first + step) // 8)
        block = Int4Weight(parts["codes"][:, words], parts["zeros"][:, words], parts["scales"][:, columns])
        yield columns, block.dequantised(torch.float32).to(dtype).t()
