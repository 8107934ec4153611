"""An adapter's folder, checked against the model it is for, from its headers alone. Torch-free.

Safetensors only, as everywhere: reading a pickle runs what it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from engine.errors import CheckpointError, NoAdapter
from engine.lora.settings import SETTINGS, AdapterSettings
from engine.model_config import ModelConfig
from engine.offload.layout import fused_linears
from engine.weight_files import read_header

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"

_PREFIX = "base_model.model."
_FACTOR = re.compile(
    # The name of the adapter itself, "default", is written by old versions.
    r"(?P<module>(?:.*\.)?layers\.(?P<layer>\d{1,6})\.(?P<name>.+))\.lora_(?P<side>[AB])(?:\.default)?\.weight"
)
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to one linear layer: scaling * B A x, with A [rank, in] and B [out, rank]."""

    rank: int
    scaling: float
    a: str
    """A's name in the file."""
    b: str


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A folder that holds an adapter for the model at hand."""

    weights: Path
    layers: tuple[Mapping[str, Factors], ...]
    """By layer of the model, and by module as `FusedLinear.modules` name them."""
    numbers: int
    """How many the adapter holds."""

    @staticmethod
    def open(folder: Path, config: ModelConfig) -> AdapterFiles:
        """Look at everything that can be wrong with the adapter in `folder`, but for the numbers themselves.

        Raises CheckpointError, naming file and key or tensor, if it is not one for a model of `config`.
        """
        if not folder.is_dir():
            raise NoAdapter(f"{folder} is no folder; a LoRA adapter is one with {SETTINGS} and {WEIGHTS}")
        if not (folder / SETTINGS).is_file():
            raise NoAdapter(f"{folder} is no LoRA adapter: it has no {SETTINGS}")
        settings = AdapterSettings.read(folder)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise CheckpointError(f"{folder} {_lacks_weights(folder)}")
        shapes = _shapes(weights)
        sizes = {
            module: (linear.in_features, out)
            for linear in fused_linears(config)
            for module, out in zip(linear.modules, linear.out_features, strict=True)
        }
        found = _found(weights, shapes, sizes, config.num_layers)
        layers: list[dict[str, Factors]] = [{} for _ in range(config.num_layers)]
        for (layer, name), module in found.items():
            layers[layer][name] = _factors(weights, settings, shapes, module, sizes[name])
        _require_all(weights, settings, found, sizes, config.num_layers)
        return AdapterFiles(weights, tuple(layers), sum(a * b for a, b in shapes.values()))


def _lacks_weights(folder: Path) -> str:
    if not (folder / PICKLE).is_file():
        return f"is no LoRA adapter: it has no {WEIGHTS}"
    return (
        f"has its weights only as pickle ({PICKLE}), which can run code when it is read; only safetensors "
        "are read. If you trust it, load it elsewhere with peft and save it with save_pretrained"
    )


def _shapes(path: Path) -> dict[str, tuple[int, int]]:
    """Of every tensor, which are all matrices. Raises CheckpointError, also if the file is cut short."""
    shapes: dict[str, tuple[int, int]] = {}
    try:
        begin, header = read_header(path)
        size = path.stat().st_size - begin
        for name, entry in header.items():
            shape, ends = cast("list[int]", entry["shape"]), cast("list[int]", entry["data_offsets"])
            if entry["dtype"] not in _FLOATS:
                raise CheckpointError(f"{path}: tensor {name} is {entry['dtype']}; expected floating point")
            if ends[1] > size:
                raise CheckpointError(
                    f"{path} is cut short: tensor {name} lies beyond its end; fetch it again"
                )
            if len(shape) != 2:
                raise CheckpointError(f"{path}: tensor {name} has shape {shape}; expected a matrix")
            shapes[name] = (shape[0], shape[1])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); fetch it again") from error
    if not shapes:
        raise CheckpointError(f"{path} holds no tensors")
    return shapes


@dataclass(frozen=True, slots=True)
class _Module:
    """A module that tensors are there for."""

    name: str
    """In the trained model."""
    sides: Mapping[str, str]
    """Names of the tensors A and B, of those that are there."""


def _found(
    path: Path, shapes: Mapping[str, object], sizes: Mapping[str, object], layers: int
) -> dict[tuple[int, str], _Module]:
    """The modules that tensors are there for, by layer and name. Raises CheckpointError for other tensors."""
    found: dict[tuple[int, str], tuple[str, dict[str, str]]] = {}
    for tensor in sorted(shapes):
        parts = _FACTOR.fullmatch(tensor.removeprefix(_PREFIX))
        if parts is None or parts["name"] not in sizes:
            supported = ", ".join(name.rpartition(".")[2] for name in sizes)
            raise CheckpointError(
                f"{path}: tensor {tensor} adapts what cannot be adapted; supported are the linear layers "
                f"{supported} of decoder layers"
            )
        layer = int(parts["layer"])
        if layer >= layers:
            raise CheckpointError(
                f"{path}: tensor {tensor} is for layer {layer}, but the model has {layers} layers; "
                "it was trained for another model"
            )
        module, sides = found.setdefault((layer, parts["name"]), (parts["module"], {}))
        if module != parts["module"] or parts["side"] in sides:
            raise CheckpointError(f"{path}: tensor {tensor} is there twice, under names that differ slightly")
        sides[parts["side"]] = tensor
    return {place: _Module(name, sides) for place, (name, sides) in found.items()}


def _factors(
    path: Path,
    settings: AdapterSettings,
    shapes: Mapping[str, tuple[int, int]],
    module: _Module,
    size: tuple[int, int],
) -> Factors:
    """Those of `module`, which has `size` input and output features. Raises CheckpointError."""
    if not settings.adapts(module.name):
        raise CheckpointError(
            f"{path}: tensor {min(module.sides.values())} is there, but {SETTINGS} does not have that module "
            "adapted; the two files are not of one adapter"
        )
    rank = settings.rank_of(module.name)
    in_features, out_features = size
    for side, wanted in (("A", (rank, in_features)), ("B", (out_features, rank))):
        tensor = module.sides.get(side)
        if tensor is None:
            other = next(iter(module.sides.values()))
            raise CheckpointError(f"{path}: tensor {other} is there without its lora_{side}; fetch it again")
        if shapes[tensor] != wanted:
            raise CheckpointError(
                f"{path}: tensor {tensor} has shape {list(shapes[tensor])}; the model and {SETTINGS} ask for "
                f"{list(wanted)}"
            )
    return Factors(rank, settings.scaling(module.name), module.sides["A"], module.sides["B"])


def _require_all(
    path: Path,
    settings: AdapterSettings,
    found: Mapping[tuple[int, str], _Module],
    names: Mapping[str, object],
    layers: int,
) -> None:
    """Raise CheckpointError if a module that is to be adapted has no tensors."""
    (layer, name), module = next(iter(found.items()))
    prefix = module.name.removesuffix(f"layers.{layer}.{name}")
    for place in ((layer, name) for layer in range(layers) for name in names):
        module_name = f"{prefix}layers.{place[0]}.{place[1]}"
        if place not in found and settings.adapts(module_name):
            raise CheckpointError(f"{path} has no tensors for {module_name}, which {SETTINGS} has adapted")
