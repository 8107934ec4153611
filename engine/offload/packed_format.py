"""A file of packed layers: a page that says what it holds, then the layers as they lie in memory.

::

    magic, length of the header, its SHA-256, the header as JSON, zeros up to a page
    layer 0, a multiple of a page
    layer 1 ...

The header is written last, so that a file without a whole one is no packed file.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from engine.offload.layout import PAGE

VERSION = 1
_MAGIC = b"UMBRPACK"
_MOST_LAYERS = 100_000


class PackedHeader(msgspec.Struct, frozen=True):
    """What a packed file holds."""

    source: str
    """What it was made of."""
    sizes: tuple[int, ...]
    """Of the layers, in bytes."""
    sums: tuple[int, ...]
    """Of the layers, see `checksum`."""


class DamagedFile(Exception):
    """A packed file that is not what its header says."""


def checksum(buffer: Tensor) -> int:
    """The sum of `buffer`'s 64-bit words. It finds what disks and crashes do, as fast as memory is read."""
    return int(buffer.view(torch.int64).sum())


def write(path: Path, source: str, sizes: Sequence[int], fill: Callable[[int, Tensor], None]) -> None:
    """Write a whole packed file, and have it reach the disk. `fill` puts a layer, by its index, in a buffer.

    Raises OSError, and what `fill` raises.
    """
    sums: list[int] = []
    with path.open("wb", buffering=0) as file:
        file.seek(_begin(len(sizes)))
        buffer = torch.empty(max(sizes), dtype=torch.uint8)
        for layer, size in enumerate(sizes):
            part = buffer[:size]
            fill(layer, part)
            sums.append(checksum(part))
            _write_all(file.write, part.numpy().data)
        header = msgspec.json.encode(PackedHeader(source, tuple(sizes), tuple(sums)))
        file.seek(0)
        _write_all(file.write, memoryview(_preamble(header)))
        os.fsync(file.fileno())


def _write_all(write: Callable[[memoryview], int | None], content: memoryview) -> None:
    # One call writes 2 GB at most.
    while content:
        content = content[write(content) or 0 :]


def _preamble(header: bytes) -> bytes:
    return _MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header


def _begin(layers: int) -> int:
    """Where the first layer lies: behind room for two numbers of 20 digits a layer, and a path."""
    return -(-(2 * PAGE + 48 * layers) // PAGE) * PAGE


def read_header(path: Path) -> PackedHeader:
    """Raises OSError, and DamagedFile if it is none, or not of the size that it says."""
    with path.open("rb") as file:
        magic, length = file.read(8), int.from_bytes(file.read(8), "little")
        digest, header = file.read(32), file.read(min(length, _begin(_MOST_LAYERS)))
        size_bytes = os.fstat(file.fileno()).st_size
    if magic != _MAGIC or digest != hashlib.sha256(header).digest():
        raise DamagedFile(f"{path} is no packed file, or a damaged one")
    try:
        decoded = msgspec.json.decode(header, type=PackedHeader)
    except msgspec.DecodeError as error:
        raise DamagedFile(f"{path} is of another kind: {error}") from error
    if size_bytes != _begin(len(decoded.sizes)) + sum(decoded.sizes):
        raise DamagedFile(f"{path} is cut short")
    return decoded


class PackedReader:
    """An open packed file. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        """Raises as `read_header` does."""
        self._header = read_header(path)
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        sizes = self._header.sizes
        self._offsets = [_begin(len(sizes)) + sum(sizes[:layer]) for layer in range(len(sizes))]
        self._checked: set[int] = set()

    def read_into(self, layer: int, buffer: Tensor) -> None:
        """Read `layer` into `buffer` [its size] uint8, and check it if it has not been read before.

        The system is told not to keep a copy: what is read once a pass would drive out everything else.
        Raises OSError and DamagedFile.
        """
        view, offset = buffer.numpy().data, self._offsets[layer]
        with self._lock:
            self._file.seek(offset)
            while view:
                count = self._file.readinto(view)
                if not count:
                    raise DamagedFile(f"{self._path} is cut short")
                view = view[count:]
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), offset, len(buffer), os.POSIX_FADV_DONTNEED)
        if layer not in self._checked:
            if checksum(buffer) != self._header.sums[layer]:
                raise DamagedFile(f"{self._path}: layer {layer} is damaged")
            self._checked.add(layer)

    def close(self) -> None:
        with self._lock:
            self._file.close()
