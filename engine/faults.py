"""What torch raises when a device gives out, in our own words: `engine.errors.DeviceError`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from engine.errors import DeviceError

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # What creating its handle comes to where there is no room for it.
)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says that memory gave out, the device's or the host's; the device itself is well."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


@contextmanager
def device_errors() -> Generator[None]:
    """Turn what torch raises for want of memory or of a device into DeviceError; all else stays as it is."""
    try:
        yield
    except RuntimeError as error:
        # Only the first line: what follows advises on debugging torch.
        reason = str(error).partition("\n")[0]
        if out_of_memory(error):
            raise DeviceError(
                f"Memory ran out ({reason}). Lower max_length, slots, tree_size or max_vram, or close other "
                "programs that use the device."
            ) from error
        if isinstance(error, torch.AcceleratorError) or "CUDA error" in reason:
            raise DeviceError(
                f"The GPU stopped working ({reason}). The engine has to be started again.", lost=True
            ) from error
        raise
