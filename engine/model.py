"""The Transformer: tokens and their places in, logits out, keys and values into a cache.

One model for Llama (Touvron et al. 2023), Qwen and Mistral: what tells them apart is a field of
`ModelConfig`. It knows nothing of drafting or sampling: a prompt, a token tree, and a prompt with a
tree at its end are all a `Block`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from engine.attention import Attention, AttentionKind, MaskedAttention, PathAttention
from engine.checkpoint import Checkpoint
from engine.faults import device_errors, out_of_memory
from engine.kv_cache import KVCache
from engine.layer_loading import load_layers, stage_devices
from engine.layers import BeforeLayer, Layer, LayerStore
from engine.linear import DenseLinear, Linear, RmsNorm
from engine.lora.adapter import Adapter
from engine.lora.files import AdapterFiles
from engine.model_config import ModelConfig
from engine.offload.packed_file import LayerSource
from engine.offload.placement import Placement
from engine.offload.streamed import MakeLink
from engine.progress import Progress, untold
from engine.rope import Rope
from engine.weights import DTYPES, DTypeName, WeightReader, choose_device, choose_dtype, form_for

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one pass.

    `parents[i]` is the row that row i follows, an earlier one, or -1 if it follows the cached tokens. Rows
    before `first` are in the cache's scratch, from earlier passes over the same rows since the cache last
    changed; the pass runs the others. So a tree grows level by level.
    """

    tokens: list[int]
    parents: list[int]
    first: int = 0

    @staticmethod
    def chain(tokens: Sequence[int]) -> Block:
        """Rows that follow one another, the first of them the cached tokens."""
        return Block(list(tokens), list(range(-1, len(tokens) - 1)))

    def __len__(self) -> int:
        return len(self.tokens)

    def depths(self) -> list[int]:
        """How many rows of the block stand before each on its path: its position less the cache's length.

        Raises ValueError if a row has no parent given, or one that does not precede it, or if `first`
        is no row.
        """
        if self.first and not 0 < self.first < len(self):
            raise ValueError(f"a block of {len(self)} rows cannot start at row {self.first}")
        depths: list[int] = []
        for row, parent in enumerate(self.parents):
            if not -1 <= parent < row:
                raise ValueError(f"row {row} of a block cannot follow row {parent}")
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        if len(depths) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens with {len(depths)} parents")
        return depths


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What a pass of some rows reads besides weights and cache, on the model's device."""

    tokens: Tensor
    """[rows], where the embedding is."""
    cos: Tensor
    sin: Tensor
    """Of the rows' positions, [rows, 1, head_dim]."""
    attentions: Mapping[int | None, Attention]
    """By window."""

    def to(self, device: torch.device) -> PassInputs:
        """The same for the layers on `device`."""
        attentions = {window: each.to(device) for window, each in self.attentions.items()}
        return PassInputs(self.tokens, self.cos.to(device), self.sin.to(device), attentions)


Write = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


class Replay(Protocol):
    """Runs a pass in the model's own place; see `engine.graphs`."""

    def __call__(
        self, inputs: PassInputs, cache: KVCache, first: int, before_layer: BeforeLayer, /
    ) -> Tensor | None:
        """As `forward`, with the logits of every row, right until the next pass; None, if it cannot."""
        ...


class Transformer:
    """A loaded model. Not thread-safe: one thread owns it and its caches.

    `row_multiple` above 1 asks for the reference path: passes are padded to a multiple of so many rows,
    and computed such that a token's logits are the same bits in whichever pass they are computed.
    """

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        layers: LayerStore,
        final_norm: RmsNorm,
        lm_head: Linear,
        row_multiple: int,
        device: torch.device,
        devices: Sequence[torch.device] = (),
    ) -> None:
        """`devices`: of each layer, where these are spread over several."""
        self.config = config
        self.device = device
        self._devices = tuple(devices)
        self.dtype = embedding.dtype
        self._embedding = embedding
        self._layers = layers
        self._final_norm = final_norm
        self._lm_head = lm_head
        self._row_multiple = row_multiple
        self._attention: AttentionKind = MaskedAttention.of if row_multiple == 1 else PathAttention.of
        self._rope = Rope(config, self.dtype, self.device)
        self.replay: Replay | None = None
        """Asked first at every pass, where a device is quicker than those who ask it."""
        self.relief: Transformer | None = None
        """Another model on the same device, that gives up some of its memory where we cannot."""
        self.notice = ""
        """What a user should know of how it goes, or ''."""

    @property
    def num_layers(self) -> int:
        """How often a pass calls its `before_layer`."""
        return len(self._layers)

    def wait_ms(self, layer: int) -> float:
        """How long the device will wait for `layer`: see `LayerStore.wait_ms`."""
        return self._layers.wait_ms(layer)

    @property
    def split(self) -> tuple[int, int, int]:
        """How many layers stay on the device, come from host memory at every pass, and come from disk."""
        return self._layers.split

    @property
    def stages(self) -> tuple[int, ...]:
        """How many layers are computed on each device, one after the other."""
        return tuple(len(list(run)) for _, run in groupby(map(self.device_of, range(self.num_layers))))

    @property
    def in_place(self) -> bool:
        """Whether all weights stay where they are on the device, so that a pass may be recorded."""
        # By kind: a tensor on "cuda" says that it is on "cuda:0".
        here = self._embedding.device.type == self.device.type and not self._devices
        return self._layers.in_place and here

    def device_of(self, layer: int) -> torch.device:
        """Where `layer` is computed."""
        return self._devices[layer] if self._devices else self.device

    @staticmethod
    @torch.inference_mode()
    def load(
        checkpoint: Checkpoint,
        device: str = "auto",
        dtype: DTypeName = "auto",
        *,
        row_multiple: int = 1,
        placement: Placement | None = None,
        source: LayerSource | None = None,
        make_link: MakeLink | None = None,
        progress: Progress = untold,
    ) -> Transformer:
        """Read every weight.

        `placement` says what lies where, in which dtype; without one, everything is on the device. Layers
        that are computed with as they are stored come from `source`, which is ours from here on, or from
        the checkpoint; `make_link` may put another link between them and the device.

        Raises CheckpointError, naming file and tensor, if one is missing or not what the configuration
        asks for, ConfigError if `device` cannot be used, and DeviceError if it has no room.
        """
        config = checkpoint.config
        place = choose_device(device)
        if placement is None:
            placement = _whole(checkpoint, place, dtype)
        chosen = DTYPES[placement.dtype]
        reader = WeightReader(checkpoint, place, chosen, row_multiple)
        with device_errors():
            embedding = reader.dense(
                "model.embed_tokens.weight",
                config.vocab_size,
                config.hidden_size,
                device=torch.device("cpu") if placement.embedding_on_host else place,
            )
            final_norm = reader.norm("model.norm.weight")
            lm_head = reader.head(embedding.to(place) if config.tie_embeddings else None)
            layers = load_layers(reader, placement, source, make_link, progress)
        devices = stage_devices(placement)
        return Transformer(config, embedding, layers, final_norm, lm_head, row_multiple, place, devices)

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache with room for `capacity` rows, those of the pass at hand included."""
        config = self.config

        def made() -> KVCache:
            self._rope.reserve(capacity)
            devices = [self.device_of(layer) for layer in range(config.num_layers)]
            return KVCache(devices, config.num_kv_heads, capacity, config.head_dim, self.dtype)

        return self._relieved(made)

    @torch.inference_mode()
    def read_adapter(self, folder: Path) -> Adapter:
        """The LoRA adapter in `folder`, for caches to `use`. Raises CheckpointError and DeviceError.

        Passes with an adapter are not replayed.
        """
        files = AdapterFiles.open(folder, self.config)
        return self._relieved(
            lambda: Adapter.load(files, self.config, self.dtype, self.device_of, self._row_multiple)
        )

    @torch.inference_mode()
    def forward(self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        """Run `block` [T] after what `cache` holds: float32 logits [len(rows), vocab] of `rows`.

        Its keys and values are left in `cache` as scratch for `KVCache.keep`. `before_layer(i)` is
        called before layer i; what it raises ends the pass there, and the cache keeps the tokens it had.
        Where passes are replayed, all calls come before the first layer: a pass once begun is finished.
        Where memory gives out and more can be had, the pass begins anew, with all calls.
        Raises CacheFull if T rows do not fit, ValueError if the block is malformed, if one of `rows`
        is before its `first`, or if those before `first` are not in the cache's scratch, and DeviceError.
        """
        return self._relieved(lambda: self._pass(block, cache, rows, before_layer))

    def _pass(self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        first, ran = block.first, len(block) - block.first
        inputs = self._inputs(block, cache.length)
        if min(rows, default=first) < first:
            raise ValueError(f"row {min(rows)} was run by an earlier pass: this one starts at row {first}")
        wanted = [row - first for row in rows]
        if self.replay is not None and cache.adapter is None:
            logits = self.replay(inputs, cache, first, before_layer)
            if logits is not None:
                return logits[wanted]  # A copy, for the next pass overwrites what it came from.

        def write(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            return cache.write(layer, keys[:, :ran], values[:, :ran], first)

        return self.run(inputs, write, wanted, before_layer, cache.adapter)

    def _relieved(self, work: Callable[[], T]) -> T:
        """`work()`, once more if memory gave out and some could be had. Raises DeviceError."""
        with device_errors():
            try:
                return work()
            except RuntimeError as error:
                if not out_of_memory(error) or not self._make_room():
                    raise
            # Outside of the handler, which keeps alive what was computed so far.
            return work()

    def _make_room(self) -> bool:
        return self.shrink() or (self.relief is not None and self.relief.shrink())

    def shrink(self) -> bool:
        """Have fewer layers stay on the device, and say so. False if none can leave it.

        Not from within a layer: before one, or between passes.
        """
        stayed, *_ = self.split
        if not self._layers.shrink():
            return False
        self.replay = None  # What was recorded reads from where the layers were.
        moved = stayed - self.split[0]
        self.notice = (
            f"The device ran out of memory. {moved} of {self.num_layers} layers left it, which makes passes "
            "slower. Close other programs that use it, or lower max_vram, max_length or slots, and restart."
        )
        log.warning("%s", self.notice)
        return True

    def close(self) -> None:
        """Give back the weights, on the device and on the host, and end what fetches them.

        No pass can be run any more. Harmless when it is done already.
        """
        self.replay = None
        self._layers.close()
        self._embedding = self._embedding.new_empty((0, 0))
        self._lm_head = DenseLinear(self._embedding)

    def _inputs(self, block: Block, length: int) -> PassInputs:
        """Of the rows of `block` from its `first` on, padded to a multiple, after `length` cached tokens."""
        first, places = block.first, block.depths()
        padding = [0] * (-(len(block) - first) % self._row_multiple)
        positions = [length + place for place in places[first:]] + padding
        cos, sin = self._rope.at(_indices(positions, self.device))
        attentions = {
            window: self._attention(block.parents, length, window, self.dtype, self.device)
            for window in set(self.config.windows)
        }
        if first:
            run = range(first, len(block))
            attentions = {window: whole.select(run) for window, whole in attentions.items()}
        tokens = torch.tensor(block.tokens[first:] + padding, dtype=torch.long, device=self._embedding.device)
        return PassInputs(tokens, cos, sin, attentions)

    def run(
        self,
        inputs: PassInputs,
        write: Write,
        wanted: Sequence[int],
        before_layer: BeforeLayer,
        adapter: Adapter | None = None,
    ) -> Tensor:
        """The pass itself: float32 logits [len(wanted), vocab] of the `wanted` among its rows.

        `write` stores a layer's keys and values [kv_heads, rows, head_dim], and returns what its rows see.
        """
        x = functional.embedding(inputs.tokens, self._embedding).to(self.device)
        every = list(range(len(x)))
        with closing(self._layers.walk(before_layer)) as layers:
            for index, stored in enumerate(layers):
                layer = stored if adapter is None else adapter.around(index, stored)
                if self._devices and (index == 0 or self._devices[index] != self._devices[index - 1]):
                    x, inputs = x.to(self._devices[index]), inputs.to(self._devices[index])
                attention = inputs.attentions[self.config.windows[index]]
                queries, keys, values = self._project(layer.attention_norm(x), layer, inputs.cos, inputs.sin)
                seen = write(index, keys, values)
                if index == len(self._layers) - 1 and list(wanted) != every:
                    # Beyond its keys and values, the last layer matters only to the rows asked for.
                    if not wanted:
                        return torch.empty((0, self.config.vocab_size), device=self.device)
                    padded = _indices([*wanted] + [0] * (-len(wanted) % self._row_multiple), x.device)
                    x, queries, attention = x[padded], queries[padded], attention.select(wanted)
                x = x + layer.attention_out(attention(queries, *seen))
                gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
                x = x + layer.down(functional.silu(gate) * up)
        return self._lm_head(self._final_norm(x.to(self.device)))[: len(wanted)].float()

    def _project(self, x: Tensor, layer: Layer, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [rows, heads, head_dim] and keys, rotated, and values [kv_heads, rows, head_dim]."""
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        qkv = layer.qkv(x).view(len(x), heads + 2 * kv_heads, self.config.head_dim)
        turned = qkv[:, : heads + kv_heads]
        if layer.qk_norm is not None:
            turned = layer.qk_norm(turned)
        rotated = self._rope.rotate(turned, cos, sin)
        values = qkv[:, heads + kv_heads :]
        return rotated[:, :heads], rotated[:, heads:].transpose(0, 1), values.transpose(0, 1)


def _whole(checkpoint: Checkpoint, device: torch.device, dtype: DTypeName) -> Placement:
    """Everything on the device."""
    dtype_name = choose_dtype(dtype, checkpoint, device)
    return Placement.whole(checkpoint.config.num_layers, form_for(device), dtype_name)


def _indices(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)
