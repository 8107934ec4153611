"""What a machine has: memory, links, and how fast it computes. Looked up, or stated by hand.

Torch-free but for `Machine.here`, which asks CUDA. Figures of GPU families are their makers' data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.config import EngineConfig
from engine.low_bit.form import Form
from engine.memory import GIB, free_bytes

CUDA_BYTES = 3 * GIB // 4
"""What CUDA takes of a device before the first tensor: context, libraries, and its allocator's rounding."""
ASSUMED_LINK, ASSUMED_DISK = 25e9, 3e9
"""Bytes a second: what PCIe 4.0 x16 reaches, and an NVMe disk's sequential reads."""
_DESKTOP_BYTES = GIB // 2
_HOST_RESERVE_BYTES = 2 * GIB

_EFFICIENCY = 0.7
"""Of what a data sheet promises. An assumption."""
_GPUS = {
    "5090": (1792e9, 209e12),
    "5080": (960e9, 113e12),
    "4090": (1008e9, 165e12),
    "4080": (736e9, 104e12),
    "4070 Ti": (504e9, 80e12),
    "3090": (936e9, 71e12),
    "3080": (760e9, 60e12),
    "L40": (864e9, 181e12),
    "A100": (1555e9, 312e12),
    "H100": (2039e9, 756e12),
    "H200": (4800e9, 989e12),
}
"""By a part of its name: bytes a second of its memory, and half-precision operations a second with float32
accumulation. The slower where a name has several variants."""
_UNKNOWN_GPU = (600e9, 70e12)


@dataclass(frozen=True, slots=True)
class Compute:
    """How fast a device reads weights and multiplies."""

    memory_bytes_per_s: float
    operations_per_s: float
    source: str
    """Where the figures are from, for people."""

    @staticmethod
    def of_gpu(name: str) -> Compute:
        """Of the GPU that calls itself `name`; "" for one nobody named."""
        spelt = name.replace(" ", "").lower()
        known = next((part for part in _GPUS if part.replace(" ", "").lower() in spelt), None)
        memory, operations = _GPUS[known] if known else _UNKNOWN_GPU
        source = f"data sheet of {known}" if known else "a guess: the GPU is not known"
        return Compute(_EFFICIENCY * memory, _EFFICIENCY * operations, source)


GUESSED_CPU = Compute(12e9, 0.1e12, "a guess: passes are timed when the models are loaded")
"""Two channels of memory shared with everything else, and a few cores."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One more GPU, for layers that find no room on the first."""

    device: str
    """As torch calls it."""
    vram_bytes: int | None = None
    """As `Machine.vram_bytes`; None: asked when it matters, for asking makes a context of CUDA there."""

    def free_bytes(self) -> int:
        """Device memory that this process can have."""
        if self.vram_bytes is not None:
            return self.vram_bytes
        import torch

        # What the context takes has gone by then.
        return torch.cuda.mem_get_info(self.device)[0] + CUDA_BYTES // 2


@dataclass(frozen=True, slots=True)
class Machine:
    """Where models are to run. None where an amount is not known, and so sets no bound."""

    form: Form
    name: str = ""
    """The GPU's; "" if nobody said."""
    vram_bytes: int | None = None
    """Device memory that this process can have, CUDA's own part included. None on a CPU."""
    ram_bytes: int | None = None
    """Host memory that this process can have."""
    link_bytes_per_s: float = ASSUMED_LINK
    """From host memory to the device."""
    disk_bytes_per_s: float = ASSUMED_DISK
    compute: Compute = GUESSED_CPU
    device: str = "cpu"
    """What torch calls the GPU."""
    others: tuple[Gpu, ...] = ()
    """Further GPUs that may be used, alike as far as is known."""

    @staticmethod
    def here(config: EngineConfig) -> Machine:
        """This machine, with the device that `config` asks for. Imports torch unless that is the CPU.

        Raises ConfigError if there is no such device.
        """
        ram = free_bytes()
        if config.device == "cpu":
            return Machine("cpu", ram_bytes=ram)
        import torch

        from engine.weights import choose_device, further_devices

        device = choose_device(config.device)
        others = tuple(Gpu(name) for name in further_devices(config.device))
        if device.type != "cuda":
            return Machine("cpu", ram_bytes=ram)
        name = torch.cuda.get_device_name(device)
        # Asking made CUDA's context, about half of that, which is no longer free. Libraries are yet to come.
        vram = torch.cuda.mem_get_info(device)[0] + CUDA_BYTES // 2
        compute = Compute.of_gpu(name)
        return Machine("cuda", name, vram, ram, compute=compute, device=str(device), others=others)

    def with_stated(
        self,
        *,
        ram_bytes: int | None = None,
        link_bytes_per_s: float | None = None,
        disk_bytes_per_s: float | None = None,
    ) -> Machine:
        """The same, but for what is stated."""
        return replace(
            self,
            ram_bytes=self.ram_bytes if ram_bytes is None else ram_bytes,
            link_bytes_per_s=link_bytes_per_s or self.link_bytes_per_s,
            disk_bytes_per_s=disk_bytes_per_s or self.disk_bytes_per_s,
        )

    @staticmethod
    def card(vram_bytes: int, ram_bytes: int | None, name: str = "", count: int = 1) -> Machine:
        """One with so many GPUs of so much memory each, whether it is here or not."""
        others = tuple(Gpu(f"cuda:{index}", vram_bytes) for index in range(1, count))
        compute = Compute.of_gpu(name)
        return Machine("cuda", name, vram_bytes, ram_bytes, compute=compute, device="cuda", others=others)

    def device_budget(self, config: EngineConfig) -> int | None:
        """Bytes of device memory that `config` may take, CUDA's own part included; None: no bound is known.

        What is free, less a reserve for the desktop, or `max_vram` where that is less than what is free. On
        a CPU, the host's.
        """
        if self.form == "cpu":
            return self.host_budget(config)
        return _budget(self.vram_bytes, config.max_vram, _DESKTOP_BYTES)

    def other_budgets(self, config: EngineConfig) -> tuple[int, ...]:
        """Bytes of each of the `others`' memory that `config` may take, as `device_budget`."""
        found = (_budget(gpu.free_bytes(), config.max_vram, _DESKTOP_BYTES) for gpu in self.others)
        return tuple(budget or 0 for budget in found)

    def host_budget(self, config: EngineConfig) -> int | None:
        """Bytes of host memory that weights may take: as `device_budget`, with `max_ram`."""
        return _budget(self.ram_bytes, config.max_ram, _HOST_RESERVE_BYTES)


def _budget(free: int | None, stated_gib: float | None, reserve: int) -> int | None:
    if stated_gib is not None:
        stated = int(stated_gib * GIB)
        return stated if free is None else min(stated, free)
    return None if free is None else free - min(reserve, free // 8)
