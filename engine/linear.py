"""What the forward pass does with weights, whatever form they have. Knows nothing of checkpoints."""

from __future__ import annotations

import math
from typing import Protocol, cast

import torch
from torch import Tensor


class Linear(Protocol):
    """A linear layer: x [rows, in_features] -> [rows, out_features], in x's dtype."""

    @property
    def in_features(self) -> int: ...

    @property
    def out_features(self) -> int: ...

    def __call__(self, x: Tensor, /) -> Tensor: ...


class DenseLinear:
    """Plain weights [out_features, in_features], and a bias [out_features] or None."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self._transposed = weight.t()
        self._bias = bias

    @staticmethod
    def rearranged(weight: Tensor, bias: Tensor | None = None) -> DenseLinear:
        """The same layer with a copy of `weight` laid out [in_features, out_features].

        A BLAS multiplies a single row by that faster, in float32 on a CPU.
        """
        linear = DenseLinear(weight, bias)
        linear._transposed = linear._transposed.contiguous()
        return linear

    def __call__(self, x: Tensor, /) -> Tensor:
        product = x @ self._transposed
        return product if self._bias is None else product + self._bias


class FixedRows:
    """A linear layer that always sees the same number of rows at a time, so that a row's result cannot
    depend on how many others came with it: BLAS picks another order of summation for another shape.

    x's rows must be a multiple of `rows`.
    """

    def __init__(self, inner: Linear, rows: int) -> None:
        self.in_features = inner.in_features
        self.out_features = inner.out_features
        self._inner = inner
        self._rows = rows

    def __call__(self, x: Tensor, /) -> Tensor:
        parts = range(0, len(x), self._rows)
        return torch.cat([self._inner(x[start : start + self._rows]) for start in parts])


def fixed_rows(linear: Linear, rows: int) -> Linear:
    """`linear`, or on the reference path, `rows` above 1, one that sees so many rows at every call."""
    return FixedRows(linear, rows) if rows > 1 else linear


class RmsNorm:
    """x / sqrt(mean(x²) + eps) * weight (Zhang and Sennrich 2019), over x's last axis, in float32.

    x [..., size], weight [size], or with axes before it that x has as well.

    Written with the Euclidean norm, of x and of what eps adds to it: four operations where the mean
    takes seven, which is a tenth of a small model's decode step on a CPU.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        size = weight.shape[-1]
        self._scale = weight * math.sqrt(size)
        self._floor = torch.tensor(math.sqrt(size * eps), device=weight.device)

    def __call__(self, x: Tensor, /) -> Tensor:
        length = cast(Tensor, torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32))
        return (x / torch.hypot(length, self._floor)).mul_(self._scale).to(x.dtype)
