"""Processor, memory, disk and GPU, as the system tells them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from engine.config import cache_folder
from engine.memory import free_bytes, total_bytes
from umbrella_lsp.doctor.report import Gpu, Gpus, Machine

TIMEOUT_S = 2.0
"""Of a program that is asked something."""
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
_GPU_FIELDS = "name,memory.total,memory.free,driver_version"


def look_at_machine() -> Machine:
    """What computes here, and with how much memory."""
    processor, flags = _processor()
    folder = cache_folder()
    return Machine(
        processor=processor,
        cores=_cores(),
        instructions=tuple(name for name in INSTRUCTIONS if name in flags),
        memory_bytes=total_bytes(),
        free_memory_bytes=free_bytes(),
        cache_folder=str(folder),
        free_disk_bytes=_free_disk(folder),
    )


def look_for_gpus(timeout_s: float = TIMEOUT_S) -> Gpus:
    """What ``nvidia-smi`` knows; none where there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Gpus()
    command = [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Gpus(problem=f"nvidia-smi did not answer within {timeout_s:g} s")
    except OSError as error:
        return Gpus(problem=f"nvidia-smi cannot be run ({error.strerror})")
    if done.returncode:
        return Gpus(problem=f"nvidia-smi failed (exit {done.returncode})")
    try:
        return Gpus(tuple(_gpu(line) for line in done.stdout.splitlines() if line.strip()))
    except ValueError:
        return Gpus(problem="what nvidia-smi says makes no sense")


def _gpu(line: str) -> Gpu:
    name, total, free, driver = (part.strip() for part in line.rsplit(",", 3))
    return Gpu(name, _mib(total), _mib(free), driver)


def _mib(said: str) -> int | None:
    """None for ``[N/A]``, as is said of a GPU that shares the machine's memory."""
    return None if said.startswith("[") else int(said)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _processor() -> tuple[str, set[str]]:
    """What the processor is called, and its flags as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    pairs = [line.partition(":") for line in lines]
    facts = {name.strip(): value.strip() for name, _, value in reversed(pairs)}
    flags = facts.get("flags") or facts.get("Features") or ""
    return facts.get("model name") or platform.machine(), set(flags.split())


def _free_disk(folder: Path) -> int | None:
    """Of the disk where `folder` lies, or would."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
