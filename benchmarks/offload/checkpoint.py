"""Checkpoints of a stated shape, as published ones lie on disk: shards, an index, AutoAWQ's tensors.

Every layer holds the same random block, so that one of 40 GB is written as fast as the disk allows; or only
the headers are written, for what never reads a weight. The tokenizer is the bundled pair's. What such a model
says means nothing.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.offload.shapes import Shape
from engine.checkpoint import find
from engine.weight_files import INDEX

SHARD_BYTES = 5 * 10**9
_ITEM_BYTES = {"I32": 4, "F16": 2}
_WORDS_OF_EIGHTS = 0x88888888
"""Eight zero points of 8, the middle of what four bits hold."""
_NIBBLE_DEVIATION = 4.6
"""Of an evenly drawn nibble."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a weight file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def write(folder: Path, shape: Shape, *, weights: bool = True, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write a checkpoint of `shape` into `folder`, and return that. Without `weights`, files are holes."""
    folder.mkdir(parents=True, exist_ok=True)
    bundled = find("bundled:target")
    for file in bundled.glob("*token*.json"):
        shutil.copy(file, folder)
    ids = json.loads((bundled / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(_config(shape, ids), indent=2))
    block = _random_block(shape, ids["vocab_size"]) if weights else {}
    shards = _shards(shape, shard_bytes)
    files = [f"model-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
    for file, tensors in zip(files, shards, strict=True):
        with (folder / file).open("wb") as out:
            _write_shard(out, tensors, block)
    where = {tensor.name: file for file, shard in zip(files, shards, strict=True) for tensor in shard}
    total = sum(tensor.size_bytes for shard in shards for tensor in shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}))
    return folder


def _config(shape: Shape, ids: Mapping[str, object]) -> dict[str, object]:
    awq = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": shape.group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_position,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": shape.group_size is None,
        "torch_dtype": "float16",
        "bos_token_id": ids["bos_token_id"],
        "eos_token_id": ids["eos_token_id"],
        **({"quantization_config": awq} if shape.group_size is not None else {}),
    }


def _layer(shape: Shape, prefix: str) -> Iterator[Stored]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    yield Stored(f"{prefix}input_layernorm.weight", "F16", (hidden,))
    yield Stored(f"{prefix}post_attention_layernorm.weight", "F16", (hidden,))
    for module, taken, given in (
        ("self_attn.q_proj", hidden, queries),
        ("self_attn.k_proj", hidden, keys),
        ("self_attn.v_proj", hidden, keys),
        ("self_attn.o_proj", queries, hidden),
        ("mlp.gate_proj", hidden, inner),
        ("mlp.up_proj", hidden, inner),
        ("mlp.down_proj", inner, hidden),
    ):
        if shape.group_size is None:
            yield Stored(f"{prefix}{module}.weight", "F16", (given, taken))
        else:
            groups = taken // shape.group_size
            yield Stored(f"{prefix}{module}.qweight", "I32", (taken, given // 8))
            yield Stored(f"{prefix}{module}.qzeros", "I32", (groups, given // 8))
            yield Stored(f"{prefix}{module}.scales", "F16", (groups, given))


def _shards(shape: Shape, shard_bytes: int) -> list[list[Stored]]:
    """All tensors, in files of about `shard_bytes`."""
    tensors = [Stored("model.embed_tokens.weight", "F16", (shape.vocab_size, shape.hidden_size))]
    for index in range(shape.num_layers):
        tensors += _layer(shape, f"model.layers.{index}.")
    tensors.append(Stored("model.norm.weight", "F16", (shape.hidden_size,)))
    if shape.group_size is not None:
        tensors.append(Stored("lm_head.weight", "F16", (shape.vocab_size, shape.hidden_size)))
    shards: list[list[Stored]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size_bytes
    return shards


def _random_block(shape: Shape, known_tokens: int) -> dict[str, bytes]:
    """Contents by the ends of names: those of a layer, and of the rows of embedding and output layer in use.

    Other rows stay zero, so that the model says nothing that its tokenizer does not know.
    """
    draw = np.random.default_rng(0)
    contents: dict[str, bytes] = {}
    for tensor in _layer(shape, "."):
        kind = tensor.name.rpartition(".")[2]
        count = math.prod(tensor.shape)
        if kind == "qweight":
            contents[tensor.name] = draw.integers(0, 1 << 32, count, np.uint32).tobytes()
        elif kind == "qzeros":
            contents[tensor.name] = np.full(count, _WORDS_OF_EIGHTS, np.uint32).tobytes()
        elif kind == "scales":
            taken = tensor.shape[0] * (shape.group_size or 1)
            scale = 0.5 / (_NIBBLE_DEVIATION * math.sqrt(taken))
            contents[tensor.name] = (scale * draw.uniform(0.5, 1.5, count)).astype(np.float16).tobytes()
        elif "layernorm" in tensor.name:
            contents[tensor.name] = draw.uniform(0.9, 1.1, count).astype(np.float16).tobytes()
        else:
            contents[tensor.name] = _normal(draw, count, 0.5 / math.sqrt(tensor.shape[1]))
    contents["norm.weight"] = np.ones(shape.hidden_size, np.float16).tobytes()
    rows = min(known_tokens, shape.vocab_size) * shape.hidden_size
    contents["embed_tokens.weight"] = _normal(draw, rows, 0.5)
    contents["lm_head.weight"] = _normal(draw, rows, 1.0 / math.sqrt(shape.hidden_size))
    return contents


def _normal(draw: np.random.Generator, count: int, deviation: float) -> bytes:
    return (deviation * draw.standard_normal(count, np.float32)).astype(np.float16).tobytes()


def _write_shard(out: BinaryIO, tensors: list[Stored], block: Mapping[str, bytes]) -> None:
    """In the safetensors format: the length of a JSON header, the header, the tensors one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ends = list(np.cumsum([tensor.size_bytes for tensor in tensors]).tolist())
    for tensor, end in zip(tensors, ends, strict=True):
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [end - tensor.size_bytes, end],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    out.write(len(encoded).to_bytes(8, "little") + encoded)
    begin = out.tell()
    for tensor, end in zip(tensors, ends, strict=True):
        out.seek(begin + end - tensor.size_bytes)
        out.write(_content(tensor.name, block))
    out.truncate(begin + ends[-1])


def _content(name: str, block: Mapping[str, bytes]) -> bytes:
    """Of tensor `name`; b"" where it stays a hole."""
    parts = name.removeprefix("model.").split(".")
    key = "." + ".".join(parts[2:]) if parts[0] == "layers" else ".".join(parts)
    return block.get(key, b"")
