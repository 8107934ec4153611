from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.kv_cache import CacheFull, KVCache
from engine.model import Block, Transformer
from tests.engine.tiny import LLAMA3_ROPE, chain, write_llama

TOKENS = random.Random(7).choices(range(96), k=60)
TREE = [-1, 0, 0, 1, 1, 2, 4, 4, 0, 7]
"""Two branches, a fork, a leaf behind the other branch's nodes, and a path of five."""
TREE_TOKENS = [5, 17, 33, 50, 17, 61, 80, 2, 9, 41]


class StopHereError(Exception):
    """What a `before_layer` raises in these tests."""


def quiet(layer: int) -> None:
    """A `before_layer` that minds nothing."""


def load(folder: Path, row_multiple: int = 1) -> Transformer:
    return Transformer.load(Checkpoint.open(folder), "cpu", row_multiple=row_multiple)


def extend(model: Transformer, cache: KVCache, tokens: list[int]) -> Tensor:
    """Run `tokens` as a chain and keep them: logits [len(tokens), vocab]."""
    logits = model.forward(Block(tokens, chain(tokens)), cache, range(len(tokens)), quiet)
    cache.keep(range(len(tokens)), tokens)
    return logits


def path_to(node: int) -> list[int]:
    """The nodes of `TREE` from the root to `node`."""
    return [*(path_to(TREE[node]) if TREE[node] >= 0 else []), node]


def after(length: int) -> list[int]:
    """`TREE`'s parents where it follows a chain of `length` rows in the same block."""
    return [parent + length for parent in TREE]


@torch.no_grad()
def reference(model: LlamaForCausalLM, tokens: list[int]) -> Tensor:
    return model(torch.tensor([tokens])).logits[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder, attention_bias=True)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Transformer:
    return load(folder)


@pytest.fixture(scope="module")
def exact_model(folder: Path) -> Transformer:
    return load(folder, row_multiple=16)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"rope_parameters": LLAMA3_ROPE},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": 32},
        {"rms_norm_eps": 1e-2},
    ],
    ids=str,
)
@pytest.mark.parametrize("row_multiple", [1, 16])
def test_logits_equal_transformers(tmp_path: Path, changes: dict[str, Any], row_multiple: int) -> None:
    expected = reference(write_llama(tmp_path, **changes), TOKENS)
    model = load(tmp_path, row_multiple)
    logits = extend(model, model.new_cache(64), TOKENS)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_sharded_weights_give_the_same_model(tmp_path: Path) -> None:
    expected = reference(write_llama(tmp_path, shard_size="80KB"), TOKENS)
    model = load(tmp_path)
    torch.testing.assert_close(extend(model, model.new_cache(64), TOKENS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.15), ("fp16", 0.02)])
def test_half_precision_stays_close(tmp_path: Path, dtype: Any, tolerance: float) -> None:
    expected = reference(write_llama(tmp_path), TOKENS)
    model = Transformer.load(Checkpoint.open(tmp_path), "cpu", dtype)
    logits = extend(model, model.new_cache(64), TOKENS)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("cuts", [[60], [1] * 60, [20, 1, 30, 9], [59, 1]], ids=str)
def test_a_prompt_may_come_in_any_number_of_passes(model: Transformer, cuts: list[int]) -> None:
    whole = extend(model, model.new_cache(60), TOKENS)
    cache, parts = model.new_cache(60), list[Tensor]()
    for size in cuts:
        parts.append(extend(model, cache, TOKENS[cache.length : cache.length + size]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cached", [60, 59, 25, 0])
def test_every_node_of_a_tree_sees_its_own_path_only(model: Transformer, cached: int) -> None:
    cache = model.new_cache(80)
    if cached:
        extend(model, cache, TOKENS[:cached])
    rest = TOKENS[cached:]
    block = Block([*rest, *TREE_TOKENS], [*chain(rest), *after(len(rest))])
    logits = model.forward(block, cache, range(len(rest), len(block)), quiet)
    for node in range(len(TREE)):
        alone = [*TOKENS, *(TREE_TOKENS[step] for step in path_to(node))]
        expected = extend(model, model.new_cache(80), alone)[-1]
        torch.testing.assert_close(logits[node], expected, rtol=1e-5, atol=1e-5)


def test_a_kept_path_continues_as_a_fresh_prefill_would(model: Transformer) -> None:
    path = path_to(9)
    cache = model.new_cache(80)
    model.forward(Block(TOKENS + TREE_TOKENS, chain(TOKENS) + after(60)), cache, [0], quiet)
    kept = [*range(60), *(60 + node for node in path)]
    cache.keep(kept, TOKENS + [TREE_TOKENS[node] for node in path])
    fresh = model.new_cache(80)
    extend(model, fresh, cache.tokens)
    follow = extend(model, cache, [3, 4, 5]), extend(model, fresh, [3, 4, 5])
    torch.testing.assert_close(*follow, rtol=1e-5, atol=1e-5)


def random_block(seed: int) -> tuple[Block, list[int]]:
    """A block of 20 rows, their parents at random, and the ends of the passes it is run in."""
    chance = random.Random(seed)
    parents = [chance.randrange(-1, row) for row in range(20)]
    ends = sorted(chance.sample(range(1, 20), chance.randrange(1, 6)))
    return Block(chance.choices(range(96), k=20), parents), [*ends, 20]


def grow(model: Transformer, cache: KVCache, block: Block, ends: list[int]) -> Tensor:
    """The logits of `block`, run in passes that end at `ends` [20, vocab]."""
    parts: list[Tensor] = []
    for first, end in zip([0, *ends], ends, strict=False):
        part = Block(block.tokens[:end], block.parents[:end], first)
        parts.append(model.forward(part, cache, range(first, end), quiet))
    return torch.cat(parts)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("row_multiple", [1, 16])
def test_a_tree_may_be_run_in_parts_that_follow_one_another(
    model: Transformer, exact_model: Transformer, row_multiple: int, seed: int
) -> None:
    chosen = model if row_multiple == 1 else exact_model
    tolerance = 1e-5 if row_multiple == 1 else 0.0
    block, ends = random_block(seed)
    parted, whole = chosen.new_cache(90), chosen.new_cache(90)
    for cache in (parted, whole):
        extend(chosen, cache, TOKENS)
    logits = grow(chosen, parted, block, ends), chosen.forward(block, whole, range(20), quiet)
    torch.testing.assert_close(*logits, rtol=tolerance, atol=tolerance)
    path = [19]
    while block.parents[path[0]] >= 0:
        path.insert(0, block.parents[path[0]])
    for cache in (parted, whole):
        cache.keep(path, [block.tokens[row] for row in path])
    follow = extend(chosen, parted, [3, 4]), extend(chosen, whole, [3, 4])
    torch.testing.assert_close(*follow, rtol=tolerance, atol=tolerance)


def test_a_part_of_a_tree_gives_logits_of_its_own_rows_only(model: Transformer) -> None:
    cache = model.new_cache(90)
    extend(model, cache, TOKENS)
    whole = model.forward(Block(TREE_TOKENS, TREE), cache, range(len(TREE)), quiet)
    part = Block(TREE_TOKENS, TREE, 6)
    some = model.forward(part, cache, [9, 6], quiet)
    torch.testing.assert_close(some, whole[[9, 6]], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="row 5 was run by an earlier pass: this one starts at row 6"):
        model.forward(part, cache, [9, 5], quiet)


def test_an_adopted_cache_continues_as_a_fresh_prefill_would(model: Transformer) -> None:
    cache, adopted = model.new_cache(80), model.new_cache(70)
    extend(model, cache, TOKENS)
    adopted.adopt(cache, 40)
    fresh = extend(model, model.new_cache(80), [*TOKENS[:40], 95, 94])
    torch.testing.assert_close(extend(model, adopted, [95, 94]), fresh[40:], rtol=1e-5, atol=1e-5)


def test_a_truncated_cache_continues_as_a_fresh_prefill_would(model: Transformer) -> None:
    cache = model.new_cache(80)
    extend(model, cache, TOKENS)
    cache.truncate(cache.common_prefix([*TOKENS[:40], 95, 94]))
    assert cache.length == 40
    fresh = extend(model, model.new_cache(80), [*TOKENS[:40], 95, 94])
    torch.testing.assert_close(extend(model, cache, [95, 94]), fresh[40:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row_multiple", [1, 16])
def test_only_the_rows_asked_for_get_logits(folder: Path, row_multiple: int) -> None:
    model = load(folder, row_multiple)
    block = Block(TOKENS, chain(TOKENS))
    every = model.forward(block, model.new_cache(60), range(60), quiet)
    for rows in ([59, 0, 7], range(59, -1, -1), [3] * 60, [8]):
        some = model.forward(block, model.new_cache(60), rows, quiet)
        torch.testing.assert_close(some, every[list(rows)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row_multiple", [1, 16])
def test_a_pass_without_logits_fills_the_cache_all_the_same(folder: Path, row_multiple: int) -> None:
    model = load(folder, row_multiple)
    cache = model.new_cache(60)
    assert model.forward(Block(TOKENS[:50], chain(TOKENS[:50])), cache, [], quiet).shape == (0, 96)
    cache.keep(range(50), TOKENS[:50])
    expected = extend(model, model.new_cache(60), TOKENS)[50:]
    torch.testing.assert_close(extend(model, cache, TOKENS[50:]), expected, rtol=1e-5, atol=1e-5)


def test_a_later_cache_may_be_longer_than_the_first(folder: Path) -> None:
    model = load(folder)
    short = extend(model, model.new_cache(8), TOKENS[:8])
    long = extend(model, model.new_cache(200), TOKENS * 3)
    torch.testing.assert_close(long[:8], short, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_cancelled_pass_starts_no_further_layer_and_leaves_the_cache(
    model: Transformer, layer: int
) -> None:
    cache = model.new_cache(80)
    extend(model, cache, TOKENS[:50])
    started: list[int] = []

    def before_layer(index: int) -> None:
        if index == layer:
            raise StopHereError
        started.append(index)

    with pytest.raises(StopHereError):
        model.forward(Block(TREE_TOKENS, TREE), cache, range(len(TREE)), before_layer)
    assert started == list(range(layer))
    assert cache.tokens == TOKENS[:50]
    expected = extend(model, model.new_cache(80), TOKENS)[50:]
    torch.testing.assert_close(extend(model, cache, TOKENS[50:]), expected, rtol=1e-5, atol=1e-5)


def test_the_hook_is_called_before_every_layer(model: Transformer) -> None:
    started: list[int] = []
    model.forward(Block([1], [-1]), model.new_cache(1), [0], started.append)
    assert started == list(range(model.num_layers)) == [0, 1, 2]


def single_passes(model: Transformer, cache: KVCache, tokens: list[int]) -> Tensor:
    return torch.cat([extend(model, cache, [token]) for token in tokens])


def tree_at_once(model: Transformer, cache: KVCache, tokens: list[int]) -> Tensor:
    """`tokens` as one path through a tree of distractions."""
    parents, nodes, path = list[int](), list[int](), list[int]()
    for index, token in enumerate(tokens):
        parents += [path[-1] if path else -1] * 2
        nodes += [token, 1] if index % 2 else [1, token]
        path.append(len(nodes) - 2 + (0 if index % 2 else 1))
    return model.forward(Block(nodes, parents), cache, path, quiet)


def tree_with_the_prompt(model: Transformer, cache: KVCache, tokens: list[int]) -> Tensor:
    cached = list(cache.tokens)
    cache.truncate(11)
    block = Block([*cached[11:], 1, *tokens], [*chain(cached[11:]), len(cached) - 12, len(cached) - 12])
    parents = [*block.parents, *range(len(cached) - 10, len(cached) - 11 + len(tokens))]
    return model.forward(
        Block(block.tokens, parents), cache, range(len(parents) - len(tokens), len(parents)), quiet
    )


@pytest.mark.parametrize("decode", [single_passes, tree_at_once, tree_with_the_prompt])
def test_on_the_reference_path_logits_are_the_same_bits_in_any_pass(
    exact_model: Transformer, decode: Callable[[Transformer, KVCache, list[int]], Tensor]
) -> None:
    whole = extend(exact_model, exact_model.new_cache(100), TOKENS)
    cache = exact_model.new_cache(100)
    extend(exact_model, cache, TOKENS[:37])
    assert torch.equal(decode(exact_model, cache, TOKENS[37:]), whole[37:])


def test_on_the_reference_path_a_kept_path_continues_with_the_same_bits(exact_model: Transformer) -> None:
    path = path_to(9)
    cache, fresh = exact_model.new_cache(80), exact_model.new_cache(80)
    exact_model.forward(Block(TOKENS + TREE_TOKENS, chain(TOKENS) + after(60)), cache, [0], quiet)
    cache.keep([*range(60), *(60 + node for node in path)], TOKENS + [TREE_TOKENS[node] for node in path])
    extend(exact_model, fresh, cache.tokens)
    assert torch.equal(extend(exact_model, cache, [3, 4]), extend(exact_model, fresh, [3, 4]))


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ([1, 2], [-1, 1], "row 1 of a block cannot follow row 1"),
        ([1, 2], [-1, -2], "cannot follow row -2"),
        ([1, 2], [-1], "2 tokens with 1 parents"),
    ],
)
def test_a_malformed_block_is_refused(
    model: Transformer, tokens: list[int], parents: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.forward(Block(tokens, parents), model.new_cache(4), [0], quiet)


@pytest.mark.parametrize("first", [-1, 2, 3])
def test_a_block_that_starts_at_no_row_of_it_is_refused(model: Transformer, first: int) -> None:
    with pytest.raises(ValueError, match=f"a block of 2 rows cannot start at row {first}"):
        model.forward(Block([1, 2], [-1, 0], first), model.new_cache(4), [], quiet)


def test_a_block_that_does_not_fit_is_refused(model: Transformer) -> None:
    with pytest.raises(CacheFull):
        extend(model, model.new_cache(59), TOKENS)


def test_loading_reports_how_far_it_is(folder: Path) -> None:
    told: list[tuple[float, str]] = []
    Transformer.load(Checkpoint.open(folder), "cpu", progress=lambda share, what: told.append((share, what)))
    assert told[1] == (pytest.approx(1 / 3), "Loading layer 2 of 3")
    assert [share for share, _ in told] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.self_attn.k_proj.weight", "model.layers.2.mlp.down_proj.weight", "lm_head.weight"],
)
def test_a_checkpoint_that_lacks_a_weight_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"has no tensor {name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(64, 65), r"shape \[64, 65\], config.json asks for \[64, 64\]"),
        (torch.zeros(64, 64, dtype=torch.int32), "torch.int32; expected floating point"),
    ],
)
def test_a_weight_that_cannot_be_used_is_refused_by_name(tmp_path: Path, bad: Tensor, message: str) -> None:
    write_llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    save_file(tensors | {name: bad}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name} (is|has) .*{message}"):
        load(tmp_path)


@pytest.mark.gpu
def test_a_gpu_computes_the_same_model(folder: Path, model: Transformer) -> None:
    on_gpu = Transformer.load(Checkpoint.open(folder), "cuda", "fp32")
    block = Block(TOKENS + TREE_TOKENS, chain(TOKENS) + after(60))
    rows = range(len(block))
    expected = model.forward(block, model.new_cache(80), rows, quiet)
    logits = on_gpu.forward(block, on_gpu.new_cache(80), rows, quiet).cpu()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
