"""What a checkpoint takes in memory, counted from its headers. Torch-free.

Counts bytes by role: embedding, output head, layers, keys and values, what a pass works with. Where they go
is `engine.offload.plan`'s business. An estimate from below where torch keeps a second form of a small weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from engine.checkpoint import find, find_description
from engine.config import EngineConfig
from engine.config_tables import ModelName
from engine.errors import CheckpointError
from engine.low_bit.form import ITEM_BYTES, DTypeName, Form
from engine.model_config import ModelConfig, read_model_config
from engine.offload.layout import LayerLayout, fused_linears
from engine.weight_files import read_header, weight_files

SMALL_BYTES = 256 * 2**20
"""Up to this size in float32 a model on a CPU has memory to spare. A quantised one is dequantised when it is
loaded: so small, plain products are faster than those of its own kernels, and exact. A float32 one may hold
its weights twice, for one row and for several."""
PREFILL_ROWS = 1024
"""Prompt rows a pass may have: the mask and the activations of one pass have to fit in memory. From so many
rows on even a pass whose layers stream is bound by arithmetic, so that more would save no time.
"""
_HALVES: dict[str, DTypeName] = {"F16": "fp16", "BF16": "bf16"}


def linear_bytes(config: ModelConfig) -> int:
    """Size in float32 of the layers' linear weights."""
    return 4 * config.num_layers * layer_weights(config)


def layer_weights(config: ModelConfig) -> int:
    """Numbers that a token is multiplied with in one layer."""
    return sum(linear.in_features * sum(linear.out_features) for linear in fused_linears(config))


def is_small(config: ModelConfig) -> bool:
    """Whether a model's linear weights take at most SMALL_BYTES in float32."""
    return linear_bytes(config) <= SMALL_BYTES


def stays_packed(config: ModelConfig, form: Form, dtype: str) -> bool:
    """Whether quantised weights are multiplied as they are stored, in a model that computes in `dtype`."""
    return config.quantization is not None and (form == "cuda" or (dtype == "bf16" and not is_small(config)))


def computing_dtype(name: str, config: ModelConfig, form: Form, stored: str) -> DTypeName:
    """The dtype to compute in, where the configuration says `name` and the final norm is `stored`, as F16.

    "auto" is float32 on a CPU, but for large quantised models, whose kernels want bfloat16; elsewhere the
    checkpoint's own half precision, float16 if it has none.
    """
    if name != "auto":
        return cast("DTypeName", name)
    if form == "cuda":
        return _HALVES.get(stored, "fp16")
    return "bf16" if config.quantization is not None and not is_small(config) else "fp32"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one checkpoint takes once it is loaded for one kind of device."""

    folder: Path
    architecture: ModelConfig
    form: Form
    dtype: DTypeName
    stays_packed: bool
    """Whether quantised weights stay as they are; if not, they are dequantised when they are loaded."""
    layer_bytes: tuple[int, ...]
    """Of each layer's linear weights, as one run of bytes."""

    @staticmethod
    def of(model: ModelName, dtype: str, form: Form) -> Footprint:
        """Of `model`, as it is loaded for `form`.

        Raises CheckpointError if it is not whole, and ConfigError if it is to be quantised and is already.
        """
        folder = find(model.name, model.revision)
        shape = read_model_config(folder, model.quantize)
        stored = _stored_dtypes(folder).get("model.norm.weight", "")
        computed = computing_dtype(dtype, shape, form, stored)
        packed = stays_packed(shape, form, computed)
        loaded = shape if packed else replace(shape, quantization=None)
        layers = (LayerLayout.of(loaded, index, form, computed) for index in range(shape.num_layers))
        return Footprint(folder, shape, form, computed, packed, tuple(layer.size_bytes for layer in layers))

    @property
    def embedding_bytes(self) -> int:
        shape = self.architecture
        return shape.vocab_size * shape.hidden_size * ITEM_BYTES[self.dtype]

    @property
    def head_bytes(self) -> int:
        """Of the output layer, if it is not the embedding, and of all norms."""
        shape = self.architecture
        norms = (2 * shape.num_layers + 1) * shape.hidden_size
        if shape.qk_norm:
            norms += shape.num_layers * (shape.num_heads + shape.num_kv_heads) * shape.head_dim
        return norms * ITEM_BYTES[self.dtype] + (0 if self.head_is_embedding else self.embedding_bytes)

    @property
    def head_is_embedding(self) -> bool:
        """Whether the output layer takes no memory of its own; see `engine.cpu_linear.PreciseHead`."""
        return self.architecture.tie_embeddings and not (self.form == "cpu" and self.dtype == "bf16")

    @property
    def weights_bytes(self) -> int:
        return self.embedding_bytes + self.head_bytes + sum(self.layer_bytes)

    @property
    def token_bytes(self) -> int:
        """Of the keys and values of one token, in all layers."""
        shape = self.architecture
        return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * ITEM_BYTES[self.dtype]

    def working_bytes(self, rows: int, logits: int, length: int) -> int:
        """What a pass of `rows` over `length` tokens works with, which wants the logits of some of them.

        The residual, norm and attention vectors, the MLP's three; keys and values repeated for every head
        of a group, and a mask; logits in the pass's dtype and in float32; a table of rotations.
        """
        shape, item = self.architecture, ITEM_BYTES[self.dtype]
        seen = rows + length
        vectors = rows * (6 * shape.hidden_size + 4 * shape.intermediate_size)
        repeated = 2 * seen * shape.num_heads * shape.head_dim
        table = 2 * seen * shape.head_dim
        return item * (vectors + repeated + rows * seen + table) + logits * shape.vocab_size * (item + 4)


def footprints(config: EngineConfig, form: Form) -> tuple[Footprint, tuple[Footprint, ...]]:
    """Of the target and the draft models of `config`. Raises CheckpointError if one of them is not whole."""
    target = Footprint.of(config.target, config.dtype, form)
    return target, tuple(Footprint.of(draft, config.dtype, form) for draft in config.drafts)


def needed_bytes(config: EngineConfig, *, on_gpu: bool) -> int:
    """Memory that the weights of `config`'s models take. Raises CheckpointError if one is not whole."""
    if not config.runs_here:
        find_description(config.target)
        return 0
    target, drafts = footprints(config.local, "cuda" if on_gpu else "cpu")
    return sum(each.weights_bytes for each in (target, *drafts))


def _stored_dtypes(folder: Path) -> dict[str, str]:
    """What every tensor of a checkpoint is stored as. Raises CheckpointError if a file is not whole."""
    dtypes: dict[str, str] = {}
    for file, expected in weight_files(folder).items():
        try:
            begin, header = read_header(file)
            ends = [cast("list[int]", entry["data_offsets"])[1] for entry in header.values()]
            whole = file.stat().st_size == begin + max(ends, default=0)
            dtypes.update({name: str(entry["dtype"]) for name, entry in header.items()})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged or cut short; fetch it again") from error
        if not whole:
            raise CheckpointError(f"{file} is damaged or cut short; fetch it again")
        if absent := sorted(expected.difference(header)):
            raise CheckpointError(f"{file} lacks tensor {absent[0]}, which the index says it holds")
    return dtypes
