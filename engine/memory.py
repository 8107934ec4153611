"""Gives memory back to the system. Torch-free: torch is asked only where something else has imported it."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Return what nothing refers to any more, of the host's memory and of the device's."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what is freed in small pieces, a quarter of a small model's memory; others have no trim.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
