"""The kernels for CUDA: on Triton's interpreter where that is asked for, and on a device that is there."""

from __future__ import annotations

import os

import pytest
import torch

from engine.low_bit.choice import Kernels
from engine.low_bit.form import Shape
from engine.low_bit.torch_kernels import agrees
from tests.engine.low_bit.weights import random_rows, random_weight

SHAPES = [Shape(64, 16, 32), Shape(128, 136, 64), Shape(96, 24, 96), Shape(256, 264, 128)]


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="asked for with TRITON_INTERPRET=1")
@pytest.mark.parametrize("rows", [1, 3, 17, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_interpreted_kernels_multiply_with_the_weight(shape: Shape, rows: int) -> None:
    pytest.importorskip("triton")
    from engine.low_bit.triton_kernels import FusedKernel, ScratchKernel

    parts = random_weight(shape.in_features, shape.out_features, group=shape.group_size).stored("cuda")
    in_blocks = ScratchKernel(torch.device("cpu"), 4 * 128 * shape.in_features)
    # The interpreter's dot product does not know bfloat16.
    for dtype, kernels in {
        torch.float16: [FusedKernel(1), FusedKernel(2), in_blocks],
        torch.bfloat16: [in_blocks, ScratchKernel(torch.device("cpu"))],
    }.items():
        x = random_rows(rows, shape.in_features, dtype)
        for kernel in kernels:
            product = kernel(x, parts, shape)
            assert product.dtype == dtype
            assert agrees(product, x, parts, shape)
            assert torch.equal(product, kernel(x, parts, shape))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # Of Triton 3.9: nothing here could be fused.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [Shape(4096, 6144, 128), Shape(1024, 2048, 64)], ids=str)
def test_no_kernel_is_left_out_on_the_device(
    shape: Shape, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    device = torch.device("cuda")
    weight = random_weight(shape.in_features, shape.out_features, group=shape.group_size)
    parts = {name: part.to(device) for name, part in weight.stored("cuda").items()}
    kernels = Kernels.of("cuda", device, dtype)
    for rows in (1, 7, 64, 200):
        x = random_rows(rows, shape.in_features, dtype).to(device)
        product = kernels.multiply(x, parts, shape)
        assert agrees(product, x, parts, shape)
        assert torch.equal(product, kernels.multiply(x, parts, shape))
    assert caplog.messages == []
