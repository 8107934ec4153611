from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from engine.draft.base import Opening, Outlook
from engine.draft.model import ModelDrafter
from engine.errors import DeviceError
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.model import Block, Transformer
from engine.policy import GrowMap, StaticPolicy
from engine.policy.base import Position
from engine.tree import TokenTree
from tests.engine.scripted import CHEAP, draft_model, nothing

HISTORY = [3, 9, 4, 9, 4, 7, 3]
MAP = GrowMap(((1, 2, 3), (4, 5), (), (6,), (7,), (), (), ()))
AMPLE = Position(HISTORY, pending=0, left=100, outlook=Outlook())


@pytest.fixture
def policy() -> StaticPolicy:
    return StaticPolicy(ModelDrafter(draft_model(), 64, len(MAP), CHEAP), MAP)


def grow(policy: StaticPolicy, position: Position = AMPLE, before_layer: BeforeLayer = nothing) -> TokenTree:
    session = policy.open(policy.new_memories(), Opening(HISTORY, []), greedy=True)
    tree = session.grow(position, before_layer)
    assert not session.failed
    return tree


def ranked(model: Transformer, text: Sequence[int], count: int) -> list[int]:
    """The model's `count` first choices after `text`."""
    cache = model.new_cache(len(text))
    logits = model.forward(Block.chain(text), cache, [len(text) - 1], nothing)
    return logits[0].topk(count).indices.tolist()


def nodes_by_map(tree: TokenTree) -> Iterator[tuple[int, int]]:
    """Nodes of the map and of `tree` that stand in the same place, as far as `tree` goes."""
    waiting = [(0, 0)]
    while waiting:
        node, at = waiting.pop()
        yield node, at
        waiting += zip(MAP.successors[node], tree.children(at).values(), strict=False)


def test_the_tree_has_the_maps_shape_with_children_by_the_drafts_rank(policy: StaticPolicy):
    tree = grow(policy)
    assert len(tree) == len(MAP) == policy.most_nodes
    for node, at in nodes_by_map(tree):
        wanted = len(MAP.successors[node])
        text = [*HISTORY, *tree.path(at)]
        assert list(tree.children(at)) == ranked(draft_model(), text, max(1, wanted))[:wanted]


def test_a_step_further_on_is_grown_from_the_longer_text(policy: StaticPolicy):
    session = policy.open(policy.new_memories(), Opening(HISTORY, []), greedy=True)
    session.grow(AMPLE, nothing)
    longer = replace(AMPLE, history=[*HISTORY, 5, 6])
    assert session.grow(longer, nothing) == grow(policy, longer)


@pytest.mark.parametrize(("left", "nodes"), [(1, 1), (2, 4), (3, 7), (4, 8), (5, 8)])
def test_no_level_is_grown_that_the_text_has_no_room_for(policy: StaticPolicy, left: int, nodes: int):
    assert len(grow(policy, replace(AMPLE, left=left))) == nodes


def test_nothing_is_grown_after_the_texts_end_nor_what_cannot_follow(policy: StaticPolicy):
    end = ranked(draft_model(), HISTORY, 1)[0]
    tree = grow(policy, replace(AMPLE, outlook=Outlook(ends=frozenset({end}))))
    assert not tree.children(tree.children(0)[end])
    tree = grow(policy, replace(AMPLE, outlook=Outlook(allowed=lambda path: None if path else (5, 6))))
    assert set(tree.children(0)) == {5, 6}
    assert len(tree) == 6


class Broken:
    """A draft model whose second pass fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._model = draft_model()
        self.config = self._model.config
        self.passes = 0

    def new_cache(self, capacity: int) -> KVCache:
        return self._model.new_cache(capacity)

    def forward(self, *arguments: object) -> object:
        self.passes += 1
        if self.passes > 1:
            raise self._error
        return self._model.forward(*arguments)  # type: ignore[arg-type]


def test_a_draft_that_raises_is_named_and_asked_no_more():
    broken = Broken(ZeroDivisionError())
    policy = StaticPolicy(ModelDrafter(broken, 64, len(MAP), CHEAP), MAP)  # type: ignore[arg-type]
    session = policy.open(policy.new_memories(), Opening(HISTORY, []), greedy=True)
    assert len(session.grow(AMPLE, nothing)) == 4, "what was grown before serves"
    assert list(session.failed) == ["model"]
    assert len(session.grow(AMPLE, nothing)) == 1
    assert broken.passes == 2


def test_a_device_that_is_lost_while_drafting_is_no_failure_of_the_draft_alone():
    broken = Broken(DeviceError("The GPU stopped working", lost=True))
    policy = StaticPolicy(ModelDrafter(broken, 64, len(MAP), CHEAP), MAP)  # type: ignore[arg-type]
    session = policy.open(policy.new_memories(), Opening(HISTORY, []), greedy=True)
    with pytest.raises(DeviceError):
        session.grow(AMPLE, nothing)


def test_an_interruption_is_no_failure_of_the_draft(policy: StaticPolicy):
    def interrupt(layer: int) -> None:
        raise InterruptedError

    session = policy.open(policy.new_memories(), Opening(HISTORY, []), greedy=True)
    with pytest.raises(InterruptedError):
        session.grow(AMPLE, interrupt)
    assert not session.failed
    assert len(session.grow(AMPLE, nothing)) == len(MAP)
