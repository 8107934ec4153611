"""A linear layer on quantised weights wherever they lie: in a model's memory, or in a slot of the ring."""

from __future__ import annotations

from torch import Tensor

from engine.low_bit.choice import Kernels
from engine.low_bit.form import Shape
from engine.low_bit.kernel import Parts


class QuantisedLinear:
    """Multiplies with whatever `parts` hold at the time of the call: see `engine.low_bit.form.parts`.

    Nothing that is derived from their content is kept, so that they may be views of a slot that is refilled.
    `bias` [out_features], in the dtype of what is multiplied, or None.
    """

    def __init__(self, parts: Parts, shape: Shape, bias: Tensor | None, kernels: Kernels) -> None:
        self.in_features = shape.in_features
        self.out_features = shape.out_features
        self._parts = parts
        self._shape = shape
        self._bias = bias
        self._kernels = kernels

    def __call__(self, x: Tensor, /) -> Tensor:
        order = self._parts.get("order")
        if order is not None:
            x = x.index_select(1, order)
        product = self._kernels.multiply(x, self._parts, self._shape)
        return product if self._bias is None else product.add_(self._bias)
