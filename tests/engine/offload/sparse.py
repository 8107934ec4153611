"""Checkpoints of real models' shapes whose weights are holes in a file: headers, and no data on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = 128_256


@dataclass(frozen=True, slots=True)
class Shape:
    """What a published checkpoint's `config.json` says; `group_size` 0 is half precision throughout."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    group_size: int = 128
    head_dim: int = 128
    vocabulary: int = VOCABULARY
    max_position: int = 131_072
    tied: bool = False
    family: str = "Llama"
    shards: int = 1


LLAMA_70B = Shape(80, 8192, 28_672, 64, 8, shards=9)
LLAMA_8B = Shape(32, 4096, 14_336, 32, 8, shards=2)
LLAMA_1B = Shape(16, 2048, 8192, 32, 8, group_size=0, head_dim=64, tied=True)
DRAFTER_500M = Shape(4, 2048, 8192, 32, 8, group_size=0, head_dim=64, max_position=8192)
"""So many parameters, in half precision; how they are shaped is made up."""
QWEN_32B = Shape(64, 5120, 27_648, 40, 8, vocabulary=152_064, max_position=32_768, family="Qwen2", shards=5)


def write_sparse(folder: Path, shape: Shape) -> Path:
    """Write a checkpoint of `shape`: configuration, index, and files of the right size without data."""
    folder.mkdir(parents=True)
    config: dict[str, object] = {
        "architectures": [f"{shape.family}ForCausalLM"],
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_position,
        "tie_word_embeddings": shape.tied,
    }
    if shape.group_size:
        awq = {"quant_method": "awq", "bits": 4, "group_size": shape.group_size, "zero_point": True}
        config["quantization_config"] = awq | {"version": "gemm"}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = list(_tensors(shape))
    each = -(-len(tensors) // shape.shards)
    names: dict[str, str] = {}
    for shard in range(shape.shards):
        held = dict(tensors[shard * each : (shard + 1) * each])
        single = shape.shards == 1
        name = "model.safetensors" if single else f"model-{shard + 1:05}-of-{shape.shards:05}.safetensors"
        _write_file(folder / name, held)
        names |= dict.fromkeys(held, name)
    if shape.shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


_Tensor = tuple[str, tuple[int, ...]]


def _write_file(path: Path, tensors: Mapping[str, _Tensor]) -> None:
    header: dict[str, object] = {}
    end = 0
    for name, (dtype, dimensions) in tensors.items():
        begin, end = end, end + (4 if dtype == "I32" else 2) * _product(dimensions)
        header[name] = {"dtype": dtype, "shape": list(dimensions), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _product(dimensions: tuple[int, ...]) -> int:
    result = 1
    for size in dimensions:
        result *= size
    return result


def _tensors(shape: Shape) -> Iterator[tuple[str, _Tensor]]:
    table = ("F16", (shape.vocabulary, shape.hidden))
    yield "model.embed_tokens.weight", table
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linears = {
        "self_attn.q_proj": (shape.hidden, queries),
        "self_attn.k_proj": (shape.hidden, keys),
        "self_attn.v_proj": (shape.hidden, keys),
        "self_attn.o_proj": (queries, shape.hidden),
        "mlp.gate_proj": (shape.hidden, shape.inner),
        "mlp.up_proj": (shape.hidden, shape.inner),
        "mlp.down_proj": (shape.inner, shape.hidden),
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", ("F16", (shape.hidden,))
        for name, (inputs, outputs) in linears.items():
            if not shape.group_size:
                yield f"{prefix}.{name}.weight", ("F16", (outputs, inputs))
            else:
                groups = inputs // shape.group_size
                yield f"{prefix}.{name}.qweight", ("I32", (inputs, outputs // 8))
                yield f"{prefix}.{name}.qzeros", ("I32", (groups, outputs // 8))
                yield f"{prefix}.{name}.scales", ("F16", (groups, outputs))
            if shape.family == "Qwen2" and name in (
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
            ):
                yield f"{prefix}.{name}.bias", ("F16", (outputs,))
    yield "model.norm.weight", ("F16", (shape.hidden,))
    if not shape.tied:
        yield "lm_head.weight", table
