"""The Transformer: tokens and their places in, logits out, keys and values into a cache.

One model for the Llama family (Touvron et al. 2023): what tells its members apart is a field of
`ModelConfig`. It knows nothing of drafting or sampling: a prompt, a token tree, and a prompt with a
tree at its end are all a `Block`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.attention import AttentionKind, MaskedAttention, PathAttention
from engine.checkpoint import Checkpoint
from engine.kv_cache import KVCache
from engine.linear import Linear, RmsNorm
from engine.model_config import ModelConfig
from engine.rope import Rope
from engine.weights import DTypeName, WeightReader, choose_device, choose_dtype

BeforeLayer = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one pass.

    `parents[i]` is the row that row i follows, an earlier one, or -1 if it follows the cached tokens.
    """

    tokens: list[int]
    parents: list[int]

    @staticmethod
    def chain(tokens: Sequence[int]) -> Block:
        """Rows that follow one another, the first of them the cached tokens."""
        return Block(list(tokens), list(range(-1, len(tokens) - 1)))

    def __len__(self) -> int:
        return len(self.tokens)

    def depths(self) -> list[int]:
        """How many rows of the block stand before each on its path: its position less the cache's length.

        Raises ValueError if a row has no parent given, or one that does not precede it.
        """
        depths: list[int] = []
        for row, parent in enumerate(self.parents):
            if not -1 <= parent < row:
                raise ValueError(f"row {row} of a block cannot follow row {parent}")
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        if len(depths) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens with {len(depths)} parents")
        return depths


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer's weights."""

    attention_norm: RmsNorm
    qkv: Linear
    """Queries, keys and values side by side: -> [rows, (heads + 2 * kv_heads) * head_dim]."""
    attention_out: Linear
    mlp_norm: RmsNorm
    gate_up: Linear
    """-> [rows, 2 * intermediate_size]."""
    down: Linear


class Transformer:
    """A loaded model. Not thread-safe: one thread owns it and its caches.

    `row_multiple` above 1 asks for the reference path: passes are padded to a multiple of so many rows,
    and computed such that a token's logits are the same bits in whichever pass they are computed.
    """

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        layers: Sequence[_Layer],
        final_norm: RmsNorm,
        lm_head: Linear,
        row_multiple: int,
    ) -> None:
        self.config = config
        self.device = embedding.device
        self.dtype = embedding.dtype
        self._embedding = embedding
        self._layers = tuple(layers)
        self._final_norm = final_norm
        self._lm_head = lm_head
        self._row_multiple = row_multiple
        self._attention: AttentionKind = MaskedAttention.of if row_multiple == 1 else PathAttention.of
        self._rope = Rope(config, self.dtype, self.device)

    @property
    def num_layers(self) -> int:
        """How often a pass calls its `before_layer`."""
        return len(self._layers)

    @staticmethod
    @torch.inference_mode()
    def load(
        checkpoint: Checkpoint,
        device: str = "auto",
        dtype: DTypeName = "auto",
        *,
        row_multiple: int = 1,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Transformer:
        """Read every weight; `progress` is told the part done, 0 to 1, after each layer.

        Raises CheckpointError, naming file and tensor, if one is missing or not what the configuration
        asks for, and ConfigError if `device` cannot be used.
        """
        config = checkpoint.config
        place = choose_device(device)
        reader = WeightReader(checkpoint, place, choose_dtype(dtype, checkpoint, place), row_multiple)
        embedding = reader.dense("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        layers: list[_Layer] = []
        for index in range(config.num_layers):
            layers.append(_read_layer(reader, config, f"model.layers.{index}"))
            progress((index + 1) / (config.num_layers + 1))
        final_norm = reader.norm("model.norm.weight")
        if config.tie_embeddings:
            lm_head = reader.tied(embedding)
        else:
            lm_head = reader.linear(["lm_head"], config.hidden_size, [config.vocab_size], bias=False)
        progress(1.0)
        return Transformer(config, embedding, layers, final_norm, lm_head, row_multiple)

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache with room for `capacity` rows, those of the pass at hand included."""
        self._rope.reserve(capacity)
        config = self.config
        return KVCache(
            config.num_layers, config.num_kv_heads, capacity, config.head_dim, self.dtype, self.device
        )

    @torch.inference_mode()
    def forward(self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        """Run `block` [T] after what `cache` holds: float32 logits [len(rows), vocab] of `rows`.

        Its keys and values are left in `cache` as scratch for `KVCache.keep`. `before_layer(i)` is
        called before layer i; what it raises ends the pass there, and the cache keeps the tokens it had.
        Raises CacheFull if T rows do not fit, ValueError if the block is malformed.
        """
        places = block.depths()
        padding = [0] * (-len(block) % self._row_multiple)
        tokens = self._indices(block.tokens + padding)
        positions = self._indices([cache.length + place for place in places] + padding)
        attention = self._attention(block.parents, cache.length, self.dtype, self.device)
        x = functional.embedding(tokens, self._embedding)
        cos, sin = self._rope.at(positions)
        for index, layer in enumerate(self._layers):
            before_layer(index)
            queries, keys, values = self._project(layer.attention_norm(x), layer, cos, sin)
            seen = cache.write(index, keys[:, : len(block)], values[:, : len(block)])
            if index == len(self._layers) - 1 and list(rows) != list(range(len(block))):
                # Beyond its keys and values, the last layer matters only to the rows asked for.
                if not rows:
                    return x.new_empty((0, self.config.vocab_size), dtype=torch.float32)
                wanted = self._indices([*rows] + [0] * (-len(rows) % self._row_multiple))
                x, queries, attention = x[wanted], queries[wanted], attention.select(rows)
            x = x + layer.attention_out(attention(queries, *seen))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(functional.silu(gate) * up)
        return self._lm_head(self._final_norm(x))[: len(rows)].float()

    def _project(self, x: Tensor, layer: _Layer, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [rows, heads, head_dim] and keys, rotated, and values [kv_heads, rows, head_dim]."""
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        qkv = layer.qkv(x).view(len(x), heads + 2 * kv_heads, self.config.head_dim)
        rotated = self._rope.rotate(qkv[:, : heads + kv_heads], cos, sin)
        values = qkv[:, heads + kv_heads :]
        return rotated[:, :heads], rotated[:, heads:].transpose(0, 1), values.transpose(0, 1)

    def _indices(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _read_layer(reader: WeightReader, config: ModelConfig, prefix: str) -> _Layer:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    return _Layer(
        attention_norm=reader.norm(f"{prefix}.input_layernorm.weight"),
        qkv=reader.linear(
            [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"],
            hidden,
            [queries, keys, keys],
            bias=config.attention_bias,
        ),
        attention_out=reader.linear([f"{attention}.o_proj"], queries, [hidden], bias=config.attention_bias),
        mlp_norm=reader.norm(f"{prefix}.post_attention_layernorm.weight"),
        gate_up=reader.linear(
            [f"{mlp}.gate_proj", f"{mlp}.up_proj"], hidden, [inner, inner], bias=config.mlp_bias
        ),
        down=reader.linear([f"{mlp}.down_proj"], inner, [hidden], bias=config.mlp_bias),
    )
