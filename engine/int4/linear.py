"""A linear layer on INT4 weights wherever they lie: in a model's memory, or in a slot that changes hands."""

from __future__ import annotations

from torch import Tensor

from engine.int4.choice import Kernels
from engine.int4.kernel import Parts, Shape


class Int4Linear:
    """Multiplies with whatever `parts` hold at the time of the call: see `engine.int4.form.parts`.

    Nothing that is derived from their content is kept, so that they may be views of a slot that is refilled.
    `bias` [out_features], in the dtype of what is multiplied, or None.
    """

    def __init__(
        self,
        parts: Parts,
        in_features: int,
        out_features: int,
        group_size: int,
        bias: Tensor | None,
        kernels: Kernels,
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self._parts = parts
        self._shape = Shape(in_features, out_features, group_size)
        self._bias = bias
        self._kernels = kernels

    def __call__(self, x: Tensor, /) -> Tensor:
        product = self._kernels.multiply(x, self._parts, self._shape)
        return product if self._bias is None else product.add_(self._bias)
