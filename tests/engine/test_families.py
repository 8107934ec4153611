"""Every family's forward pass is transformers', for a prompt and for a token tree."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from engine.checkpoint import Checkpoint
from engine.model import Block, Transformer
from tests.engine.tiny import chain, write_model

TOKENS = random.Random(7).choices(range(96), k=40)
TREE = [-1, 0, 0, 1, 1, 2, 4, 4, 0, 7]
"""Two branches, a fork, a leaf behind the other branch's nodes, and a path of five."""
TREE_TOKENS = [5, 17, 33, 50, 17, 61, 80, 2, 9, 41]

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 8}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 4.0}}),
    ("llama", {"sliding_window": 8}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("qwen2", {"rope_parameters": YARN}),
    ("qwen2", {"rope_parameters": YARN | {"attention_factor": 1.5, "beta_fast": 3.0, "beta_slow": 0.5}}),
    ("qwen2", {"rope_parameters": YARN | {"truncate": False}}),
    ("qwen2", {"sliding_window": 8}),
    ("qwen2", {**SLIDING, "max_window_layers": 1}),
    ("qwen2", {**SLIDING, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    ("qwen3", {}),
    ("qwen3", {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True}),
    ("qwen3", {**SLIDING, "max_window_layers": 2}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 8, "head_dim": 32}),
    ("mistral", {"sliding_window": 3}),
    ("mistral", {"sliding_window": 1, "num_key_value_heads": 1}),
]


def quiet(layer: int) -> None:
    """A `before_layer` that minds nothing."""


def load(folder: Path, row_multiple: int) -> Transformer:
    return Transformer.load(Checkpoint.open(folder), "cpu", row_multiple=row_multiple)


@torch.no_grad()
def reference(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    return model(torch.tensor([tokens])).logits[0]


def path_to(node: int) -> list[int]:
    """The nodes of `TREE` from the root to `node`."""
    return [*(path_to(TREE[node]) if TREE[node] >= 0 else []), node]


@pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
@pytest.mark.parametrize("row_multiple", [1, 16])
def test_logits_of_a_prompt_and_of_a_tree_behind_it_equal_transformers(
    tmp_path: Path, family: str, changes: dict[str, Any], row_multiple: int
) -> None:
    theirs = write_model(tmp_path, family, **changes)
    model = load(tmp_path, row_multiple)
    cache = model.new_cache(64)
    whole = model.forward(Block.chain(TOKENS), cache, range(len(TOKENS)), quiet)
    torch.testing.assert_close(whole, reference(theirs, TOKENS), rtol=1e-5, atol=2e-5)

    cached = 35
    cache.keep(range(cached), TOKENS[:cached])
    rest = TOKENS[cached:]
    block = Block(rest + TREE_TOKENS, [*chain(rest), *(parent + len(rest) for parent in TREE)])
    logits = model.forward(block, cache, range(len(rest), len(block)), quiet)
    for node in range(len(TREE)):
        path = [TREE_TOKENS[step] for step in path_to(node)]
        expected = reference(theirs, TOKENS + path)[-1]
        torch.testing.assert_close(logits[node], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("family", "changes"), [("qwen3", {}), ("mistral", {"sliding_window": 8})], ids=str)
def test_on_the_reference_path_logits_are_the_same_bits_token_by_token(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    write_model(tmp_path, family, **changes)
    model = load(tmp_path, row_multiple=16)
    whole = model.forward(Block.chain(TOKENS), model.new_cache(64), range(len(TOKENS)), quiet)
    cache = model.new_cache(64)
    for position, token in enumerate(TOKENS):
        assert torch.equal(model.forward(Block.chain([token]), cache, [0], quiet)[0], whole[position])
        cache.keep([0], [token])


def test_a_window_holds_for_a_token_by_itself(tmp_path: Path) -> None:
    write_model(tmp_path, "mistral", sliding_window=8)
    model = load(tmp_path, row_multiple=1)
    whole = model.forward(Block.chain(TOKENS), model.new_cache(64), range(len(TOKENS)), quiet)
    cache = model.new_cache(64)
    for position, token in enumerate(TOKENS):
        alone = model.forward(Block.chain([token]), cache, [0], quiet)[0]
        torch.testing.assert_close(alone, whole[position], rtol=1e-5, atol=1e-5)
        cache.keep([0], [token])
