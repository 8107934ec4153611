"""Host memory for the layers of one model. Knows nothing of what they hold.

One anonymous mapping with a place for every layer. The system hands out its pages only where a layer is
put, so that a layer can come later, or leave, and nothing else moves.
"""

from __future__ import annotations

import logging
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.errors import DeviceError
from engine.memory import gib

log = logging.getLogger(__name__)

_PORTABLE = 1
"""``cudaHostRegisterPortable``: with every device, and not only with the one that is current by default."""
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
"""``MAP_NORESERVE``, which Python has a name for from 3.13 on. Of the layers with a place some may never
come, and without it Linux promises no more than the machine's memory."""


class Registrar(Protocol):
    """Makes memory known to a device, which then reads it by itself."""

    def register(self, memory: Tensor) -> None:
        """Raises RuntimeError if the system does not allow it."""
        ...

    def unregister(self, memory: Tensor) -> None: ...


class CudaRegistrar:
    """``cudaHostRegister``: just these pages, where torch's own pinned memory rounds up to a power of 2."""

    def register(self, memory: Tensor) -> None:
        try:
            torch.cuda.check_error(_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, _PORTABLE))
        except RuntimeError:
            # CUDA reports a failed call once more, to whoever launches the next kernel.
            with suppress(RuntimeError):
                torch.zeros(1, device="cuda")
            raise

    def unregister(self, memory: Tensor) -> None:
        # A device that is lost has let go of it by itself.
        with suppress(RuntimeError):
            torch.cuda.check_error(_runtime().cudaHostUnregister(memory.data_ptr()))


def _runtime() -> Any:
    """CUDA's runtime library. Torch does not say what is in it."""
    cuda: Any = torch.cuda
    return cuda.cudart()


def _anonymous(size_bytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size_bytes)
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)


class Arena:
    """Places for layers of `sizes` bytes, each a multiple of a page. Empty at first.

    Raises DeviceError if the system does not promise so much memory.
    """

    def __init__(self, sizes: Sequence[int], registrar: Registrar | None = None) -> None:
        ends = list(accumulate(sizes))
        self._places = [(end - size, size) for end, size in zip(ends, sizes, strict=True)]
        try:
            self._mapping = _anonymous(ends[-1])
        except OSError as error:
            raise DeviceError(
                f"The system has no {gib(ends[-1])} of memory for the model's layers ({error.strerror}). "
                "Close other programs, or choose a smaller model."
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Larger pages are quicker to register. A kernel without them refuses, and nothing is lost.
            with suppress(OSError):
                self._mapping.madvise(mmap.MADV_HUGEPAGE)
        # Written by other threads than the one that computes, which is not always in inference mode.
        with torch.inference_mode(False):
            self._bytes = torch.frombuffer(self._mapping, dtype=torch.uint8)
        self._registrar = registrar
        self.refused = False
        """Whether the system did not allow a layer to be registered. From then on none is."""
        self._registered: set[int] = set()
        self._held: set[int] = set()

    def __contains__(self, layer: int) -> bool:
        return layer in self._held

    def __getitem__(self, layer: int) -> Tensor:
        """The bytes of `layer` [its size] uint8, which is here."""
        if layer not in self._held:
            raise KeyError(layer)
        return self._bytes.narrow(0, *self._places[layer])

    def add(self, layer: int) -> Tensor:
        """Take memory for `layer`, which is not here, to be filled by the caller: [its size] uint8.

        Where the system does not allow that to be registered, it says so once and goes on: a link then
        takes longer.
        """
        self._held.add(layer)
        memory = self[layer]
        if self._registrar is not None and not self.refused:
            try:
                self._registrar.register(memory)
                self._registered.add(layer)
            except RuntimeError as error:
                self.refused = True
                log.warning(
                    "host memory cannot be registered with CUDA, which makes streaming slower: %s", error
                )
        return memory

    def drop(self, layer: int) -> None:
        """Give back the memory of `layer`. What still looks at it reads zeros."""
        memory = self[layer]
        if self._registrar is not None and layer in self._registered:
            self._registrar.unregister(memory)
            self._registered.discard(layer)
        self._held.discard(layer)
        if sys.platform != "win32":  # There it is given back as a whole.
            self._mapping.madvise(mmap.MADV_DONTNEED, *self._places[layer])

    def close(self) -> None:
        """Give back everything."""
        for layer in list(self._held):
            self.drop(layer)
