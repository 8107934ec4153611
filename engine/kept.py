"""What is kept in the user's cache folder because making it takes a while. Knows nothing of what it is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from engine import __version__
from engine.config import cache_folder


def folder_for(what: str) -> Path | None:
    """The user's folder for `what`; None if the cache folder is not to be found from anywhere."""
    folder = cache_folder()
    return folder / what if folder.is_absolute() else None


def replace_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, such that another process never reads half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def speed_facts(device: torch.device) -> list[str]:
    """What the speed of the same work on `device` depends on, and can be told beforehand."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} x{torch.get_num_threads()}"
    )
    return [__version__, torch.__version__, _processor(), name]


def _processor() -> str:
    """What the CPU is called, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
