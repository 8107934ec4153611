"""Tiny random checkpoints on disk, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


FAMILIES: dict[str, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "mistral": MistralForCausalLM,
}


def write_llama(folder: Path, **options: Any) -> LlamaForCausalLM:
    """`write_model` for what most tests need."""
    return cast("LlamaForCausalLM", write_model(folder, "llama", **options))


def write_model(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    scale: float = 1.0,
    shard_size: str = "1GB",
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> PreTrainedModel:
    """Save a random model of `FAMILIES` under `folder`, in `dtype`, and return transformers' own of it.

    `changes` are keys of `config.json`. `scale` multiplies every matrix: the larger, the peakier the logits.
    Norms and biases are random too, so that leaving one out shows.
    """
    config: dict[str, Any] = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.1 * scale,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = FAMILIES[family]
        made = cast("type[PreTrainedConfig]", kind.config_class)(**(config | changes))
        model = kind(made).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    weight.add_(0.1 * torch.randn_like(weight))
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return model


def chain(tokens: list[int]) -> list[int]:
    """The parents of a block in which every token follows the one before it."""
    return list(range(-1, len(tokens) - 1))
