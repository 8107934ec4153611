"""The dynamic programme against every tree there is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.costs import CostTable
from engine.draft.base import TreeLimits
from engine.growmap.choice import choices, cost_ms, tokens_of
from engine.growmap.optimum import BestTrees
from engine.policy import GrowMap

MOST = 7
Shape = tuple["Shape", ...]
"""A tree as the trees of its children."""


@cache
def forests(nodes: int) -> tuple[Shape, ...]:
    """All ordered forests of so many nodes."""
    if nodes == 0:
        return ((),)
    return tuple(
        (first, *rest)
        for size in range(1, nodes + 1)
        for first in forests(size - 1)
        for rest in forests(nodes - size)
    )


def levels_of(shape: Shape) -> int:
    return 1 + max(map(levels_of, shape)) if shape else 0


def yielded(shape: Shape, acceptance: tuple[float, ...]) -> float:
    chances = acceptance + (0.0,) * MOST
    return 1.0 + sum(
        chance * yielded(child, acceptance) for chance, child in zip(chances, shape, strict=False)
    )


def width_of(shape: Shape) -> int:
    return max([len(shape), *map(width_of, shape)])


ACCEPTANCE = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=4).map(tuple)
"""Of any order: what was measured on little text need not fall."""


@given(ACCEPTANCE, st.integers(1, MOST), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_no_tree_of_that_size_and_depth_yields_more(
    acceptance: tuple[float, ...], nodes: int, levels: int
) -> None:
    best = BestTrees(acceptance, MOST, 4)
    allowed = [
        tree for tree in forests(nodes - 1) if levels_of(tree) <= levels and width_of(tree) <= len(acceptance)
    ]
    if not allowed:
        assert best.tokens(nodes, levels) == float("-inf")
        return
    assert best.tokens(nodes, levels) == pytest.approx(max(yielded(tree, acceptance) for tree in allowed))
    shape = best.shape(nodes, levels)
    assert len(shape) == nodes
    assert len(shape.levels()) - 1 <= levels
    assert tokens_of(shape, acceptance) == pytest.approx(best.tokens(nodes, levels))


@given(ACCEPTANCE)
@settings(max_examples=20, deadline=None)
def test_more_nodes_more_levels_and_better_drafts_never_yield_less(acceptance: tuple[float, ...]) -> None:
    best = BestTrees(acceptance, 16, 16)
    better = BestTrees([min(1.0, 1.1 * chance) for chance in acceptance], 16, 16)
    by_nodes = [best.tokens(nodes, 16) for nodes in range(1, 17)]
    assert all(fewer <= more for fewer, more in pairwise(by_nodes))
    by_levels = [best.tokens(9, levels) for levels in range(16)]
    assert all(fewer <= more for fewer, more in pairwise(by_levels))
    assert better.tokens(16, 16) >= best.tokens(16, 16)


def test_a_sure_draft_gives_a_chain_and_one_without_a_favourite_a_fan() -> None:
    assert BestTrees((1.0, 0.001), 5, 5).shape(5, 5) == GrowMap(((1,), (2,), (3,), (4,), ()))
    assert BestTrees((0.2,) * 4, 5, 5).shape(5, 5) == GrowMap(((1, 2, 3, 4), (), (), (), ()))


@pytest.mark.parametrize("chance", [0.0, -0.1, 1.1, float("nan")])
def test_a_chance_that_is_none_is_refused(chance: float) -> None:
    with pytest.raises(ValueError, match="within"):
        BestTrees((0.5, chance), 4, 4)


def table(one_ms: float, more_ms: float) -> CostTable:
    return CostTable((1, 64), (one_ms, one_ms + 63 * more_ms))


LIMITS = TreeLimits(size=31, depth=8, width=4, num_beams=4)
ACCEPTED = (0.7, 0.1, 0.05)


def test_a_pass_is_charged_with_the_drafts_passes_one_a_level_by_their_rows() -> None:
    shape = GrowMap(((1, 2), (3,), (4,), (5,), (), ()))
    assert cost_ms(shape, table(10, 1), table(2, 0.5)) == 10 + 5 + 2 + 2.5 + 2


def found(target: CostTable, draft: CostTable) -> GrowMap:
    return max(choices(ACCEPTED, LIMITS, target, draft), key=lambda choice: choice.tokens_per_s).shape


def test_the_dearer_rows_and_drafting_are_the_smaller_and_the_flatter_the_best_tree() -> None:
    assert len(found(table(10, 0), table(0.01, 0))) == 32
    assert len(found(table(10, 5), table(0.01, 0))) < 6
    assert len(found(table(10, 20), table(1, 0))) == 1, "plain decoding"
    deep, flat = found(table(10, 0), table(0.1, 0)), found(table(10, 0), table(6, 0))
    assert len(deep.levels()) > len(flat.levels())


def sizes() -> Iterator[int]:
    for choice in choices(ACCEPTED, LIMITS, table(10, 1), table(1, 0)):
        assert choice.levels <= LIMITS.depth
        yield len(choice.shape)


def test_every_size_that_is_timed_is_tried_up_to_the_most_there_may_be() -> None:
    assert [*sizes()] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


def test_sizes_that_find_no_room_in_the_levels_there_may_be_are_left_out() -> None:
    flat = TreeLimits(size=31, depth=1, width=4, num_beams=4)
    assert [len(tree.shape) for tree in choices(ACCEPTED, flat, table(10, 1), table(1, 0))] == [1, 2, 3, 4]
