from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from engine.cpu_linear import ByRows, PackedLinear, PreciseHead, compact, fastest
from engine.linear import DenseLinear, Linear

Make = Callable[[Tensor, Tensor | None], Linear]

IN, OUT = 320, 272
"""Enough weights for every kernel, and no power of two."""


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


FLOATS = random(OUT, IN)
HALVES = FLOATS.half().float()
TINY = random(24, 16)


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("weight", [FLOATS, HALVES, TINY], ids=["floats", "halves", "tiny"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("make", [compact, fastest])
def test_every_form_multiplies_by_the_exact_weights(
    make: Make, weight: Tensor, biased: bool, rows: int
) -> None:
    out_features, in_features = weight.shape
    bias = random(out_features) if biased else None
    layer = make(weight, bias)
    # Not contiguous, as what a model hands over may be.
    x = random(in_features, rows).t()
    expected = x.double() @ weight.double().t() + (0.0 if bias is None else bias)
    assert (layer.in_features, layer.out_features) == (in_features, out_features)
    torch.testing.assert_close(layer(x).double(), expected, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_head_is_multiplied_in_float32_block_by_block(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.cpu_linear._BLOCK", 24)
    head = PreciseHead.of(HALVES.half())
    assert head is not None
    x = random(rows, IN).bfloat16()
    expected = x.double() @ HALVES.double().t()
    assert (head.in_features, head.out_features) == (IN, len(HALVES))
    assert head(x).dtype == torch.float32
    torch.testing.assert_close(head(x).double(), expected, rtol=0.0, atol=1e-4)


def test_a_head_that_float16_would_round_is_none() -> None:
    assert PreciseHead.of(torch.full((8, 16), 1e-9).bfloat16()) is None


@pytest.mark.parametrize("value", [1.0 + 2.0**-11, 70_000.0, 1e-9], ids=["fine", "large", "small"])
def test_weights_that_float16_would_round_are_left_in_float32(value: float) -> None:
    weight = HALVES.clone()
    weight[3, 5] = value
    assert PackedLinear.halves(weight, None) is None
    for make in (compact, fastest):
        unit = torch.zeros(2, IN)
        unit[:, 5] = 1.0
        assert make(weight, None)(unit)[1, 3] == value


@pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines or not torch.backends.mkldnn.is_available(),
    reason="this torch has not both packed kernels",
)
def test_a_torch_with_the_kernels_uses_them() -> None:
    assert isinstance(compact(HALVES), PackedLinear)
    assert isinstance(compact(FLOATS), PackedLinear)
    assert isinstance(fastest(HALVES), PackedLinear)
    assert isinstance(fastest(FLOATS), ByRows)


@pytest.mark.parametrize("make", [compact, fastest])
@pytest.mark.parametrize("weight", [FLOATS, HALVES], ids=["floats", "halves"])
def test_a_torch_without_the_kernels_multiplies_plainly(
    make: Make, weight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "ops", SimpleNamespace(quantized=None, mkldnn=None))
    layer = make(weight, None)
    for rows in (1, 5):
        x = random(rows, IN)
        torch.testing.assert_close(layer(x), x @ weight.t(), rtol=0.0, atol=1e-4)


def test_one_row_and_several_may_take_different_forms() -> None:
    layer = ByRows(DenseLinear(torch.tensor([[1.0]])), DenseLinear(torch.tensor([[2.0]])))
    assert layer(torch.ones(1, 1)).tolist() == [[1.0]]
    assert layer(torch.ones(2, 1)).tolist() == [[2.0], [2.0]]
