"""The sizes that are trained here, as Llama configurations. Knows nothing of data."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROPE_THETA = 500_000.0
"""Llama 3's. Half of a head's dimensions then hardly turn over a whole context, which is what attending
to an earlier occurrence, wherever it was, needs."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama without its vocabulary. Widths of a target are multiples of 128, AWQ's group size."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int


DRAFT_SIZES = {
    "5M": ModelShape(256, 768, 6, 4, 2),
    "30M": ModelShape(512, 1536, 10, 8, 4),
    "100M": ModelShape(768, 2304, 14, 12, 6),
    "500M": ModelShape(1536, 4608, 18, 24, 8),
}
"""Named after the parameters of the layers: an embedding of the target's vocabulary comes on top, and with
Llama 3's 128k tokens it can be the larger part."""


@dataclass(frozen=True, slots=True)
class TokenIds:
    """What a configuration says of a vocabulary."""

    size: int
    bos: int | None
    eos: int | list[int] | None
    pad: int | None = None


def build(shape: ModelShape, tokens: TokenIds, max_length: int, seed: int) -> LlamaForCausalLM:
    """A fresh model of `shape` with tied embeddings, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokens.size,
        **asdict(shape),
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=tokens.bos,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
    )
    model = LlamaForCausalLM(config)
    # Every layer adds to the residual stream twice: smaller steps keep its scale that of one layer (GPT-2).
    depth_scale = (2 * shape.num_hidden_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data *= depth_scale
    return model
