"""The machine's memory: how much there is, and giving it back.

Torch-free: torch is asked only where something else has imported it.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

GIB = 1 << 30


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


def free_bytes() -> int | None:
    """Memory of the machine that a new process can have; None where the system does not tell."""
    return _meminfo().get("MemAvailable")


def total_bytes() -> int | None:
    """Memory of the machine; None where the system does not tell."""
    return _meminfo().get("MemTotal")


def gib(size_bytes: int) -> str:
    """For people."""
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB")):
        if size_bytes >= unit // 10:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes / 1024:.1f} KiB"


def _meminfo() -> dict[str, int]:
    """``/proc/meminfo`` in bytes; nothing on another system than Linux."""
    if sys.platform != "linux":
        return {}
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in pairs if words[2:] == ["kB"]}
