from __future__ import annotations

import pytest
import torch

from engine.kv_cache import CacheFull, KVCache
from engine.lora.adapter import Adapter

LAYERS, KV_HEADS, CAPACITY, HEAD_DIM = 3, 2, 10, 4
DEVICES = [torch.device("cpu"), torch.device("cpu"), torch.device("cpu:0")]
"""Two by name, so that keys and values lie in two stores."""


@pytest.fixture
def cache() -> KVCache:
    return KVCache(DEVICES, KV_HEADS, CAPACITY, HEAD_DIM, torch.float32)


def marks(rows: list[int], layer: int) -> torch.Tensor:
    """Keys [kv_heads, rows, head_dim] that tell row and layer apart; values are their negatives."""
    return (torch.tensor(rows) + 100.0 * layer).view(1, -1, 1).expand(KV_HEADS, -1, HEAD_DIM)


def run(cache: KVCache, rows: list[int], layers: int = LAYERS, first: int = 0) -> list[list[int]]:
    """A pass that writes `rows` from scratch row `first` on; what each layer saw, as marks."""
    seen: list[list[int]] = []
    for layer in range(layers):
        keys, values = cache.write(layer, marks(rows, layer), -marks(rows, layer), first)
        assert torch.equal(keys, -values)
        seen.append((keys[0, :, 0] - 100 * layer).int().tolist())
    return seen


def held(cache: KVCache) -> list[int]:
    """The marks of the valid rows, alike in every layer."""
    layers = run(cache, [])
    assert all(layer == layers[0] for layer in layers)
    return layers[0]


def test_a_pass_sees_the_kept_rows_and_its_own(cache: KVCache) -> None:
    run(cache, [0, 1, 2])
    cache.keep([0, 1, 2], [10, 11, 12])
    assert run(cache, [3, 4]) == [[0, 1, 2, 3, 4]] * LAYERS


def test_rows_are_scratch_until_kept(cache: KVCache) -> None:
    run(cache, [0, 1])
    assert cache.length == 0
    assert run(cache, [5]) == [[5]] * LAYERS


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [0, 1], [0, 2, 4], [1, 4], [3], []])
def test_keep_moves_a_path_together_behind_the_valid_rows(cache: KVCache, rows: list[int]) -> None:
    run(cache, [7, 8])
    cache.keep([0, 1], [70, 80])
    run(cache, [20, 21, 22, 23, 24])
    cache.keep(rows, [row + 200 for row in rows])
    assert held(cache) == [7, 8, *(row + 20 for row in rows)]
    assert cache.tokens == [70, 80, *(row + 200 for row in rows)]


def test_an_abandoned_pass_leaves_the_valid_rows(cache: KVCache) -> None:
    run(cache, [1, 2])
    cache.keep([0, 1], [1, 2])
    run(cache, [8, 9], layers=2)
    assert cache.tokens == [1, 2]
    assert held(cache) == [1, 2]


def test_rows_of_an_abandoned_pass_cannot_be_kept(cache: KVCache) -> None:
    run(cache, [1, 2])
    run(cache, [8, 9], layers=2)
    with pytest.raises(ValueError, match="row 1 was not written"):
        cache.keep([0, 1], [8, 9])


def test_a_pass_is_kept_once(cache: KVCache) -> None:
    run(cache, [1, 2])
    cache.keep([0], [1])
    with pytest.raises(ValueError, match="row 1 was not written"):
        cache.keep([1], [2])
    assert cache.tokens == [1]


def test_a_pass_may_follow_the_scratch_rows_of_earlier_ones(cache: KVCache) -> None:
    run(cache, [7])
    cache.keep([0], [70])
    run(cache, [20, 21])
    assert run(cache, [22], first=2) == [[7, 20, 21, 22]] * LAYERS
    assert run(cache, [33, 34], first=2) == [[7, 20, 21, 33, 34]] * LAYERS
    cache.keep([1, 3], [1, 2])
    assert held(cache) == [7, 21, 34]


def test_a_pass_abandoned_behind_others_leaves_their_rows(cache: KVCache) -> None:
    run(cache, [20, 21])
    run(cache, [90, 91], layers=2, first=1)
    with pytest.raises(ValueError, match="row 1 was not written: the last pass left 1 whole rows"):
        cache.keep([0, 1], [1, 2])
    assert run(cache, [31], first=1) == [[20, 31]] * LAYERS


def test_a_pass_cannot_follow_rows_that_are_not_there(cache: KVCache) -> None:
    run(cache, [20, 21])
    with pytest.raises(ValueError, match="no pass left 3 whole rows to follow: there are 2"):
        run(cache, [23], first=3)
    with pytest.raises(CacheFull, match="11 rows do not fit"):
        run(cache, [0] * 9, first=2)
    cache.keep([0, 1], [1, 2])
    with pytest.raises(ValueError, match="there are 0"):
        run(cache, [23], first=1)


def test_truncate_forgets_the_tail_and_the_scratch(cache: KVCache) -> None:
    run(cache, [1, 2, 3])
    cache.keep([0, 1, 2], [1, 2, 3])
    run(cache, [4])
    cache.truncate(1)
    assert cache.tokens == [1]
    assert held(cache) == [1]
    with pytest.raises(ValueError, match="was not written"):
        cache.keep([0], [4])


@pytest.mark.parametrize("length", [-1, 2])
def test_truncate_refuses_a_length_that_is_not_there(cache: KVCache, length: int) -> None:
    run(cache, [1])
    cache.keep([0], [1])
    with pytest.raises(ValueError, match="cannot truncate a cache of 1 tokens"):
        cache.truncate(length)


@pytest.mark.parametrize(
    ("rows", "tokens", "message"),
    [
        ([0, 1], [5], "2 rows cannot stand for 1 tokens"),
        ([1, 0], [5, 6], "ascending"),
        ([0, 0], [5, 6], "ascending"),
        ([-1], [5], "ascending"),
        ([3], [5], "row 3 was not written: the last pass left 3 whole rows"),
    ],
)
def test_keep_refuses_rows_that_make_no_path(
    cache: KVCache, rows: list[int], tokens: list[int], message: str
) -> None:
    run(cache, [1, 2, 3])
    with pytest.raises(ValueError, match=message):
        cache.keep(rows, tokens)
    assert cache.length == 0


def test_a_pass_that_does_not_fit_is_refused_before_it_writes(cache: KVCache) -> None:
    run(cache, list(range(8)))
    cache.keep(range(8), range(8))
    with pytest.raises(CacheFull, match="11 rows do not fit a KV cache of 10"):
        run(cache, [50, 51, 52])
    assert held(cache) == list(range(8))
    run(cache, [8, 9])
    cache.keep([0, 1], [8, 9])
    assert held(cache) == list(range(10))


@pytest.mark.parametrize(
    ("tokens", "shared"),
    [([], 0), ([1], 1), ([1, 2, 3], 3), ([1, 2, 3, 4], 3), ([1, 9, 3], 1), ([9], 0)],
)
def test_common_prefix_counts_the_leading_tokens_both_have(
    cache: KVCache, tokens: list[int], shared: int
) -> None:
    run(cache, [1, 2, 3])
    cache.keep([0, 1, 2], [1, 2, 3])
    assert cache.common_prefix(tokens) == shared


def test_size_counts_keys_and_values_of_every_layer(cache: KVCache) -> None:
    assert cache.size_bytes == LAYERS * 2 * KV_HEADS * CAPACITY * HEAD_DIM * 4


@pytest.mark.parametrize("length", [0, 1, 3])
def test_adopt_copies_the_leading_tokens_of_another_cache(cache: KVCache, length: int) -> None:
    other = KVCache(DEVICES, KV_HEADS, 4, HEAD_DIM, torch.float32)
    run(other, [1, 2, 3])
    other.keep([0, 1, 2], [10, 20, 30])
    run(cache, [7, 8])
    cache.keep([0, 1], [70, 80])
    run(cache, [9])
    cache.adopt(other, length)
    assert (cache.tokens, other.tokens) == ([10, 20, 30][:length], [10, 20, 30])
    with pytest.raises(ValueError, match="row 0 was not written"):
        cache.keep([0], [9])
    run(cache, [50, 51])
    cache.keep([0, 1], [5, 6])
    assert held(cache) == [*[1, 2, 3][:length], 50, 51]
    assert held(other) == [1, 2, 3]


def test_adopt_leaves_what_both_caches_begin_with_where_it_is(cache: KVCache) -> None:
    other = KVCache(DEVICES, KV_HEADS, 4, HEAD_DIM, torch.float32)
    run(other, [1, 2, 3])
    other.keep([0, 1, 2], [10, 20, 30])
    run(cache, [7, 8])
    cache.keep([0, 1], [10, 80])
    cache.adopt(other, 3)
    assert (cache.tokens, held(cache)) == ([10, 20, 30], [7, 2, 3])


@pytest.mark.parametrize(("length", "capacity"), [(4, 9), (-1, 9), (3, 2)])
def test_adopt_refuses_what_is_not_there_or_does_not_fit(cache: KVCache, length: int, capacity: int) -> None:
    small = KVCache(DEVICES, KV_HEADS, capacity, HEAD_DIM, torch.float32)
    run(small, [7])
    small.keep([0], [70])
    run(cache, [1, 2, 3])
    cache.keep([0, 1, 2], [10, 20, 30])
    with pytest.raises(ValueError, match=f"cannot adopt {length} tokens of 3 into a KV cache of {capacity}"):
        small.adopt(cache, length)
    assert small.tokens == [70]
    assert held(small) == [7]


def test_keys_and_values_are_of_one_adapter_and_adopted_with_it(cache: KVCache) -> None:
    adapter = Adapter((), 1)
    run(cache, [0, 1])
    cache.keep([0, 1], [10, 11])
    cache.use(adapter)
    assert cache.tokens == []
    run(cache, [5])
    cache.keep([0], [10])
    other = KVCache(DEVICES, KV_HEADS, CAPACITY, HEAD_DIM, torch.float32)
    other.adopt(cache, 1)
    assert (held(other), other.adapter) == ([5], adapter)
