"""Where a model's packed layers are read from: a file in the user's cache, made when it is first needed.

A packed file is named by all that its bytes depend on: the content of the weights, the form, the machine. So
it never has to be compared with what it was made of, and a checkpoint that changes gets another.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import DeviceError
from engine.low_bit.form import DTypeName, Form
from engine.offload.content import Digests
from engine.offload.layout import LayerLayout
from engine.offload.pack import pack_layer
from engine.offload.packed_format import VERSION, DamagedFile, PackedReader, read_header, write
from engine.progress import Progress
from engine.weight_files import weight_files

log = logging.getLogger(__name__)

_SUFFIX, _PART = ".packed", ".part"
_LEFT_BYTES = 1 << 30
"""Of a disk, that is left to others."""


class LayerSource(Protocol):
    """The packed layers of one model. May be read by several threads."""

    def layout(self, layer: int) -> LayerLayout: ...

    def size_bytes(self, layer: int) -> int: ...

    def read_into(self, layer: int, buffer: Tensor) -> None:
        """Read `layer` into `buffer` [its size] uint8. Raises DeviceError or CheckpointError."""
        ...

    def close(self) -> None:
        """Let go of files. Harmless when it is done already."""
        ...


class CheckpointSource:
    """Packs a layer of a checkpoint whenever it is read."""

    def __init__(self, checkpoint: Checkpoint, form: Form, dtype: DTypeName) -> None:
        self.checkpoint = checkpoint
        self.form: Form = form
        self.dtype: DTypeName = dtype
        config = checkpoint.config
        self._layouts = [LayerLayout.of(config, layer, form, dtype) for layer in range(config.num_layers)]

    @property
    def sizes(self) -> list[int]:
        """Of all layers, in bytes."""
        return [layout.size_bytes for layout in self._layouts]

    def layout(self, layer: int) -> LayerLayout:
        return self._layouts[layer]

    def size_bytes(self, layer: int) -> int:
        return self._layouts[layer].size_bytes

    def read_into(self, layer: int, buffer: Tensor) -> None:
        try:
            pack_layer(self.checkpoint, layer, self.form, self.dtype, buffer)
        except OSError as error:
            raise DeviceError(f"layer {layer} cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        pass


class PackedFile:
    """Reads layers from a packed file, and from the checkpoint instead where that turns out to be damaged.

    The damaged file is deleted, so that the next start makes another.
    """

    def __init__(self, path: Path, checkpoint: CheckpointSource) -> None:
        """Raises OSError and DamagedFile if there is no whole packed file at `path`."""
        self._path = path
        self._checkpoint = checkpoint
        self._reader = PackedReader(path)
        self._damaged: set[int] = set()

    def layout(self, layer: int) -> LayerLayout:
        return self._checkpoint.layout(layer)

    def size_bytes(self, layer: int) -> int:
        return self._checkpoint.size_bytes(layer)

    def read_into(self, layer: int, buffer: Tensor) -> None:
        if layer not in self._damaged:
            try:
                self._reader.read_into(layer, buffer)
                return
            except (OSError, DamagedFile) as error:
                self._give_up(layer, error)
        self._checkpoint.read_into(layer, buffer)

    def _give_up(self, layer: int, error: Exception) -> None:
        # Once: by then another engine may have made a whole file of that name, and layers come at every pass.
        if not self._damaged:
            log.warning(
                "%s; what is damaged is read from the checkpoint, and the next start packs anew", error
            )
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._damaged.add(layer)

    def close(self) -> None:
        self._reader.close()


def open_source(
    checkpoint: Checkpoint,
    form: Form,
    dtype: DTypeName,
    progress: Progress,
    *,
    cache: Path | None,
    from_disk: bool = False,
) -> LayerSource:
    """The packed layers of `checkpoint`, with what is not INT4 in `dtype`.

    From a packed file in folder `cache`, made now if there is none. Only a model that is quantised, or that
    is read `from_disk` at every pass, gets one; where there is no `cache`, or no room, layers are packed
    whenever they are read. Raises CheckpointError, naming file and tensor.
    """
    plain = CheckpointSource(checkpoint, form, dtype)
    if cache is None or (checkpoint.config.quantization is None and not from_disk):
        return plain
    digest = Digests(cache / "digests.json").of_all(weight_files(checkpoint.folder), progress)
    path = cache / f"{_key(plain, digest)}{_SUFFIX}"
    try:
        return PackedFile(path, plain)
    except (OSError, DamagedFile):
        pass  # Not there, or of no use: made anew.
    try:
        _make(path, plain, progress)
        return PackedFile(path, plain)
    except (OSError, DamagedFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        log.warning("%s cannot keep packed weights (%s); they are packed anew at every start", cache, reason)
        return plain


def _key(source: CheckpointSource, digest: str) -> str:
    """The name of the packed file of `source`, whose weights have that digest."""
    facts = [digest, source.form, source.dtype, repr(source.checkpoint.config)]
    if source.form == "cpu":
        # Its codes lie as the kernel of this very machine reads them.
        facts += [torch.__version__, torch.backends.cpu.get_cpu_capability()]
    return f"v{VERSION}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}"


def _make(path: Path, source: CheckpointSource, progress: Progress) -> None:
    """Make the packed file of `source` at `path`, whole or not at all. Raises OSError and CheckpointError."""
    folder, count = path.parent, len(source.sizes)
    folder.mkdir(parents=True, exist_ok=True)

    def fill(layer: int, buffer: Tensor) -> None:
        progress(layer / count, f"Packing layer {layer + 1} of {count}")
        source.read_into(layer, buffer)

    with _alone_in(folder, lambda: progress(0.0, "Waiting for another engine to pack its weights")):
        with suppress(OSError, DamagedFile):
            read_header(path)
            return  # Another engine has made it while we waited.
        _tidy(folder, source)
        if shutil.disk_usage(folder).free < sum(source.sizes) + _LEFT_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = path.with_suffix(_PART)
        try:
            write(part, _origin(source), source.sizes, fill)
            part.replace(path)
            _settle(folder)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path, waiting: Callable[[], None]) -> Generator[None]:
    """Hold the lock of `folder`, `waiting` for it if need be. It goes with the process, however that ends.

    Raises OSError, also where files cannot be locked.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
    try:
        yield
    finally:
        lock.release()


def _tidy(folder: Path, source: CheckpointSource) -> None:
    """Remove what a crash has left, and files of other versions, of folders that are gone, and of this one
    before it changed.

    Only for the holder of the lock.
    """
    for left in folder.glob(f"*{_PART}"):
        left.unlink(missing_ok=True)
    for old in folder.glob(f"*{_SUFFIX}"):
        try:
            origin = read_header(old).source
            stale = origin == _origin(source) or not Path(origin.split(" ", 2)[-1]).is_dir()
            stale = stale or not old.name.startswith(f"v{VERSION}-")
        except DamagedFile:
            stale = True
        if stale:
            with suppress(OSError):  # Windows keeps what another engine reads from.
                old.unlink(missing_ok=True)


def _origin(source: CheckpointSource) -> str:
    """What a packed file was made of, and for what: there is one file of each."""
    return f"{source.form} {source.dtype} {source.checkpoint.folder.resolve()}"


def _settle(folder: Path) -> None:
    """Have the disk know of a file's new name."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
