from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.linear import DenseLinear, FixedRows

WEIGHT = torch.arange(12.0).view(3, 4)


class Recording:
    """A linear layer that notes how many rows it is given."""

    in_features, out_features = 4, 3

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, /) -> Tensor:
        self.rows.append(len(x))
        return x @ WEIGHT.t()


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, 2.0, 3.0])], ids=["plain", "bias"])
def test_a_dense_layer_multiplies_alike_in_either_layout(bias: Tensor | None) -> None:
    x = torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 1.0, 0.0]])
    expected = x @ WEIGHT.t() + (0.0 if bias is None else bias)
    for layer in (DenseLinear(WEIGHT, bias), DenseLinear.rearranged(WEIGHT, bias)):
        assert (layer.in_features, layer.out_features) == (4, 3)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("rows", [16, 48])
def test_the_reference_path_feeds_every_layer_the_same_number_of_rows(rows: int) -> None:
    inner = Recording()
    layer = FixedRows(inner, 16)
    x = torch.arange(4.0 * rows).view(rows, 4)
    assert torch.equal(layer(x), x @ WEIGHT.t())
    assert inner.rows == [16] * (rows // 16)
    assert (layer.in_features, layer.out_features) == (4, 3)
