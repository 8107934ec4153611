from __future__ import annotations

import pytest
import torch

from engine.errors import DeviceError
from engine.faults import device_errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_want_of_memory_says_what_to_lower_and_loses_nothing(error: RuntimeError):
    with (
        pytest.raises(DeviceError, match=r"Memory ran out \(.*\)\. Lower max_length") as caught,
        device_errors(),
    ):
        raise error
    assert not caught.value.lost


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
)
def test_a_gpu_that_is_lost_is_said_to_be(error: RuntimeError):
    with pytest.raises(DeviceError, match=r"GPU stopped .* \(.*\)\. .* again") as caught, device_errors():
        raise error
    assert caught.value.lost
    assert "Compile" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("CUDA error")])
def test_everything_else_stays_as_it_is(error: Exception):
    with pytest.raises(type(error), match=str(error)), device_errors():
        raise error
