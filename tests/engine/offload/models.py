"""Tiny random models whose layers stream, from a source in memory over a link of the test's choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.kv_cache import KVCache
from engine.low_bit.form import DTypeName, Form
from engine.model import Block, Transformer
from engine.offload.layout import LayerLayout
from engine.offload.pack import pack_layer
from engine.offload.placement import Placement, spread
from engine.offload.streamed import MakeLink
from tests.engine.tiny import write_model

LAYERS = 5
GROUP = 32


def write_int4(
    folder: Path, family: str, kept: Sequence[str] = (), group: int = GROUP, **changes: Any
) -> None:
    """A model of random INT4 layers, as AutoAWQ writes them; modules in `kept` are left as they are."""
    changes = {"num_hidden_layers": LAYERS, "intermediate_size": 128} | changes
    write_model(folder, family, **changes)
    rng = torch.Generator().manual_seed(0)

    def words(*shape: int) -> Tensor:
        return torch.randint(-(2**31), 2**31, shape, generator=rng).to(torch.int32)

    tensors: dict[str, Tensor] = {}
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        module = name.removesuffix(".weight")
        if not module.endswith("_proj") or any(part in module for part in kept) or name == module:
            tensors[name] = tensor
            continue
        outs, ins = tensor.shape
        tensors[f"{module}.qweight"] = words(ins, outs // 8)
        tensors[f"{module}.qzeros"] = words(ins // group, outs // 8)
        tensors[f"{module}.scales"] = (0.01 + 0.02 * torch.rand(ins // group, outs, generator=rng)).half()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": list(kept) or None,
    }
    (folder / "config.json").write_text(json.dumps(config))


class PackingSource:
    """Packs a layer whenever it is read, and counts that; a `LayerSource`."""

    def __init__(self, checkpoint: Checkpoint, form: Form = "cpu", dtype: DTypeName = "bf16") -> None:
        self._checkpoint = checkpoint
        self._form: Form = form
        self._dtype: DTypeName = dtype
        self.reads: list[int] = []
        self.closed = False

    def layout(self, layer: int) -> LayerLayout:
        return LayerLayout.of(self._checkpoint.config, layer, self._form, self._dtype)

    def size_bytes(self, layer: int) -> int:
        return self.layout(layer).size_bytes

    def read_into(self, layer: int, buffer: Tensor) -> None:
        self.reads.append(layer)
        pack_layer(self._checkpoint, layer, self._form, self._dtype, buffer)

    def close(self) -> None:
        self.closed = True


def placed(resident: int, slots: int = 2, on_disk: int = 0, form: Form = "cpu") -> Placement:
    """`resident` layers stay, and the last `on_disk` of the others are read at every pass.

    As `form` "cuda", which a CPU can multiply too, they lie in memory of their own, as on a device.
    """
    stay = spread(LAYERS, resident)
    streamed = tuple(layer for layer in range(LAYERS) if layer not in stay)
    return Placement(
        form, "bf16", stay, streamed, streamed[len(streamed) - on_disk :], min(slots, len(streamed))
    )


def load(
    folder: Path,
    placement: Placement,
    make_link: MakeLink | None = None,
    source: PackingSource | None = None,
    row_multiple: int = 1,
) -> Transformer:
    checkpoint = Checkpoint.open(folder)
    return Transformer.load(
        checkpoint,
        "cpu",
        row_multiple=row_multiple,
        placement=placement,
        source=source or PackingSource(checkpoint, placement.form),
        make_link=make_link,
    )


TEXT = [1, 5, 9, 20, 33, 90, 7, 7, 64]
TREE = Block([3, 5, 7, 11], [-1, 0, 0, 2])


def nothing(_layer: int) -> None: ...


def session(model: Transformer, cache: KVCache | None = None) -> Tensor:
    """Logits of a text, of a tree after it, and of a pass after a part of that was kept."""
    cache = cache or model.new_cache(32)
    seen = [model.forward(Block.chain(TEXT), cache, range(len(TEXT)), nothing)]
    cache.keep(range(len(TEXT)), TEXT)
    seen.append(model.forward(TREE, cache, range(len(TREE)), nothing))
    cache.keep([0, 2], [3, 7])
    seen.append(model.forward(Block.chain([4]), cache, [0], nothing))
    return torch.cat(seen)
