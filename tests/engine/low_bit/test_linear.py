from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.low_bit.choice import Kernels
from engine.low_bit.form import ITEM_BYTES, Form, Shape, parts
from engine.low_bit.linear import QuantisedLinear
from engine.low_bit.weight import Int4Weight, unpack
from tests.engine.low_bit.weights import random_rows, random_weight

CPU = torch.device("cpu")
FORMS: list[tuple[Form, torch.dtype]] = [
    ("cpu", torch.bfloat16),
    ("cpu", torch.float32),
    ("cuda", torch.float16),
    ("cuda", torch.bfloat16),
    ("cuda", torch.float32),
]


def linear(weight: Int4Weight, form: Form, dtype: torch.dtype, bias: Tensor | None = None) -> QuantisedLinear:
    shape = Shape(weight.in_features, weight.out_features, weight.group_size)
    return QuantisedLinear(weight.stored(form), shape, bias, Kernels.of(form, CPU, dtype))


@pytest.mark.parametrize("form", ["cpu", "cuda"])
def test_a_stored_weight_has_the_parts_that_were_planned_for(form: Form) -> None:
    weight = random_weight(128, 48)
    tensors = weight.stored(form)
    planned = parts(form, Shape(128, 48, 32))
    assert [part.name for part in planned] == list(tensors)
    for part in planned:
        assert (part.shape, ITEM_BYTES[part.dtype]) == (tensors[part.name].shape, tensors[part.name].itemsize)


def test_repacking_for_a_cpu_in_pieces_is_repacking_at_once() -> None:
    whole = random_weight(64, 2 * 1024 + 32)
    codes = unpack(whole.qweight).t().contiguous().int()
    at_once = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    assert torch.equal(whole.stored("cpu")["codes"], at_once)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 48)], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize(("form", "dtype"), FORMS)
def test_it_multiplies_with_the_weight_that_was_stored(
    form: Form, dtype: torch.dtype, rows: int, bias: Tensor | None
) -> None:
    weight = random_weight(128, 48)
    layer = linear(weight, form, dtype, None if bias is None else bias.to(dtype))
    assert (layer.in_features, layer.out_features) == (128, 48)
    x = random_rows(rows, 128, dtype)
    expected = functional.linear(x.float(), weight.dequantised(torch.float32), bias)
    product = layer(x)
    assert product.dtype == dtype
    exact = form == "cuda" and dtype == torch.float32
    torch.testing.assert_close(product.float(), expected, rtol=0.02, atol=1e-5 if exact else 0.05)


def test_all_input_features_may_be_one_group() -> None:
    weight = random_weight(64, 24, group=64)
    x = random_rows(3, 64, torch.float32)
    expected = x @ weight.dequantised(torch.float32).t()
    torch.testing.assert_close(linear(weight, "cuda", torch.float32)(x), expected)


def test_a_weight_too_large_for_the_scratch_is_unpacked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random_weight(64, 136), random_rows(3, 64, torch.float16)
    at_once = linear(weight, "cuda", torch.float16)(x)
    monkeypatch.setattr("engine.low_bit.torch_kernels._BLOCK_BYTES", 64 * 20 * 24)
    assert torch.equal(linear(weight, "cuda", torch.float16)(x), at_once)


@pytest.mark.parametrize("rows", [9, 70])
def test_a_row_on_a_cpu_does_not_depend_on_the_others(rows: int) -> None:
    layer = linear(random_weight(128, 48), "cpu", torch.bfloat16)
    x = random_rows(rows, 128, torch.bfloat16)
    together = layer(x)
    assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(rows))


@pytest.mark.parametrize("form", ["cpu", "cuda"])
def test_what_comes_into_its_memory_later_is_what_it_multiplies_with(form: Form) -> None:
    first, second = random_weight(64, 32, seed=1), random_weight(64, 32, seed=2)
    slot = {name: part.clone() for name, part in first.stored(form).items()}
    layer = QuantisedLinear(slot, Shape(64, 32, 32), None, Kernels.of(form, CPU, torch.bfloat16))
    x = random_rows(2, 64, torch.bfloat16)
    assert torch.equal(layer(x), linear(first, form, torch.bfloat16)(x))
    for name, part in second.stored(form).items():
        slot[name].copy_(part)
    assert torch.equal(layer(x), linear(second, form, torch.bfloat16)(x))
