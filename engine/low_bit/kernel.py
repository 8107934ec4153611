"""What multiplies with quantised weights in a `Form`. Knows nothing of checkpoints or of who chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from engine.low_bit.form import Shape

Parts = Mapping[str, Tensor]
"""The tensors of one weight, as `engine.low_bit.form.parts` names them. Their content may change."""


class Kernel(Protocol):
    """One way to multiply. Must give the same bits for the same input, however often it is called."""

    @property
    def name(self) -> str:
        """Under which the choice of it is kept."""
        ...

    def takes(self, shape: Shape, rows: int) -> bool:
        """Whether it can multiply so many rows with a weight of that shape."""
        ...

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        """X [rows, in_features] times the weight -> [rows, out_features], in x's dtype."""
        ...
