"""Find, check and read a checkpoint in Hugging Face's layout: `config.json` and safetensors.

`Checkpoint.open` looks at everything that can be wrong before a single weight is read, so that a model
which cannot be loaded says so at once and by name. Never pickle, never code from a checkpoint, never
the network. What the tensors mean is `model.py`'s business. Torch is loaded with the first weight file.

Tensors are read, not mapped: the pages of a mapped file count as memory of the process for as long as it is
open, so that a model of 40 GB would take 80 while it loads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open

from engine.config_tables import ModelName
from engine.errors import CheckpointError
from engine.hub import HubModel, fetch, find_cached
from engine.model_config import ModelConfig, read_model_config
from engine.progress import Progress
from engine.quantization import Rounded
from engine.weight_files import INDEX, read_header, weight_files

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = "bundled:"
"""Prefix of the names of the models that ship with the package."""


def find(name: str, revision: str | None = None, download: Progress | None = None) -> Path:
    """The folder of a model: ``bundled:NAME``, a local folder, or a hub id that is in the local hub cache.

    `revision` is a hub id's commit, tag or branch. The network is used only for a hub id that is not whole in
    the cache, and only where there is a `download` to tell how far it has come. Raises CheckpointError if the
    folder is not there or not whole.
    """
    return _find(HubModel(name, revision), download)


def find_description(model: ModelName, download: Progress | None = None) -> Path:
    """The folder of a model of which weights are not needed; otherwise as `find`."""
    return _find(HubModel(model.name, model.revision, with_weights=False), download)


def _find(model: HubModel, download: Progress | None) -> Path:
    folder = find_local(model.name)
    if folder is not None:
        return folder
    try:
        return find_cached(model)
    except CheckpointError:
        if download is None:
            raise
        return fetch(model, download)


def find_local(name: str) -> Path | None:
    """The folder of a model that is no hub id; None if it must be one. Raises CheckpointError."""
    if name.startswith(BUNDLED):
        folder = Path(__file__).parent / "bundled" / name.removeprefix(BUNDLED)
        if not folder.is_dir():
            raise CheckpointError(f"no bundled model {name!r}: expected {folder}; reinstall umbrella-lsp")
        return folder
    folder = Path(os.path.expanduser(name))  # noqa: PTH111 - Path's own raises for an unknown user
    return folder if name and folder.is_dir() else None


class Checkpoint:
    """An opened checkpoint: its configuration, and its tensors by name, read when asked for.

    Attributes:
        folder: where it lies.
        config: what its configuration files say.
        size_bytes: size of all its weight files.

    """

    def __init__(self, folder: Path, config: ModelConfig, shards: dict[Path, Any], size_bytes: int) -> None:
        self.folder = folder
        self.config = config
        self.size_bytes = size_bytes
        self._shards = shards
        self._files = {name: path for path, shard in shards.items() for name in shard.keys()}  # noqa: SIM118

    @staticmethod
    def open(folder: Path, quantize: Rounded | None = None) -> Checkpoint:
        """Check the configuration and that every weight file is there and whole.

        `quantize`: what its linear layers are to be rounded to when they are loaded. Raises CheckpointError,
        naming the file and what is wrong with it, and ConfigError if they are quantised already.
        """
        config = read_model_config(folder, quantize)
        names_by_shard = weight_files(folder)
        shards = {path: open_shard(path) for path in names_by_shard}
        for path, names in names_by_shard.items():
            absent = sorted(names.difference(shards[path].keys()))
            if absent:
                raise CheckpointError(f"{path} lacks tensor {absent[0]}, which {INDEX} says it holds")
        return Checkpoint(folder, config, shards, sum(path.stat().st_size for path in shards))

    def has(self, name: str) -> bool:
        """Whether there is a tensor called `name`."""
        return name in self._files

    def file(self, name: str) -> Path:
        """The file that holds, or ought to hold, tensor `name`: for messages."""
        return self._files.get(name, self.folder)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Tensor `name`, on the CPU as stored, in memory of its own.

        Raises CheckpointError, naming file and tensor, if it is missing or not of `shape`.
        """
        path = self._files.get(name)
        if path is None:
            raise CheckpointError(f"{self.folder} has no tensor {name}; the checkpoint is incomplete")
        try:
            found = cast("Tensor", self._shards[path].get_tensor(name))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error
        if shape is not None and tuple(found.shape) != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(found.shape)}, config.json asks for {list(shape)}"
            )
        return found

    def floats(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """`tensor`, which must also hold floating-point numbers, all of them finite."""
        found = self.tensor(name, shape)
        if not found.is_floating_point():
            raise CheckpointError(
                f"{self.file(name)}: tensor {name} is {found.dtype}; expected floating point"
            )
        if not bool(found.isfinite().all()):
            raise CheckpointError(
                f"{self.file(name)}: tensor {name} holds numbers that are not finite; fetch the file again"
            )
        return found


def open_shard(path: Path) -> Any:
    """A reader of the safetensors file at `path`.

    Opening compares its header with its size, so that one cut short fails here. Raises CheckpointError.
    """
    try:
        return safe_open(path, framework="pt", device="cpu", backend="pread")
    except (OSError, SafetensorError) as error:
        lost = _first_lost_tensor(path)
        where = f" from tensor {lost} on" if lost else ""
        raise CheckpointError(f"{path} is damaged or cut short{where} ({error}); fetch it again") from error


def _first_lost_tensor(path: Path) -> str:
    """The first tensor whose data lies past the end of `path`; '' if not even the header can be read."""
    try:
        size = path.stat().st_size
        begin, header = read_header(path)
    except (OSError, ValueError):
        return ""
    ends = {name: cast("list[int]", entry["data_offsets"])[1] for name, entry in header.items()}
    lost = [name for name, end in ends.items() if begin + end > size]
    return min(lost, key=ends.__getitem__, default="")
