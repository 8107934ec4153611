from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from engine.costs import CostTable
from engine.draft.base import Opening, Outlook, TreeLimits
from engine.draft.model import PRIORS, ModelDrafter, ModelMemory, ModelSession, TreeReader, evidence_of
from engine.kv_cache import KVCache
from engine.model import Block, Transformer
from engine.tree import TokenTree
from tests.engine.growth import OpenGrowth
from tests.engine.scripted import VOCABULARY, nothing, tiny_model

HISTORY = [3, 9, 4, 9, 4, 7, 3]
TABLE = CostTable((1, 64), (1.0, 2.0))
OPENING = Opening([], [])


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(1)


@pytest.fixture
def memory(model: Transformer) -> ModelMemory:
    return ModelDrafter(model, max_length=64, most_nodes=128, costs=TABLE).new_memory()


def at_once(model: Transformer, history: list[int], tree: TokenTree) -> torch.Tensor:
    """What follows each node, [nodes, vocab], from one pass over everything and an empty cache."""
    before = len(history) - 1
    parents = [*range(-1, before - 1), *(parent + before for parent in tree.parents)]
    block = Block([*history[:-1], *tree.tokens], parents)
    return model.forward(block, model.new_cache(len(block)), range(before, len(block)), nothing)


def read(reader: TreeReader, history: list[int]) -> torch.Tensor:
    """What follows `history`, [1, vocab]."""
    reader.begin(history)
    return reader.read(TokenTree.root(history[-1]), [0], nothing)


def held(cache: KVCache) -> torch.Tensor:
    return cache._stores[0][:, :, :, : cache.length]


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def grown(history: list[int], **changes: int) -> OpenGrowth:
    limits = {"size": 64, "depth": 4, "width": 5, "num_beams": 3} | changes
    return OpenGrowth(history, PRIORS, TreeLimits(**limits))


def deepened(session: ModelSession, growth: OpenGrowth) -> OpenGrowth:
    """Deepen as far as there is anything to add to."""
    session.begin(growth.history)
    while session.uncovered(growth) > 0:
        session.deepen(growth, nothing)
    return growth


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_run_part_by_part_has_the_logits_of_one_pass(
    model: Transformer, memory: ModelMemory, seed: int
):
    draws = random.Random(seed)
    tree = TokenTree.root(HISTORY[-1])
    for _ in range(24):
        tree.add(draws.randrange(len(tree)), draws.randrange(VOCABULARY), 0.5)
    expected = at_once(model, HISTORY, tree)

    reader = memory.reader()
    reader.begin(HISTORY)
    same(reader.read(tree, [0], nothing)[0], expected[0])
    left, known = list(range(1, len(tree))), {0}
    while left:
        ready = [node for node in left if tree.parents[node] in known]
        part = draws.sample(ready, draws.randint(1, len(ready)))  # Not in the tree's own order.
        # A node may come along right behind its parent.
        part += [node for node in left if tree.parents[node] in part and node not in part][:1]
        same(reader.read(tree, part, nothing), expected[part])
        known.update(part)
        left = [node for node in left if node not in known]


def test_reading_leaves_the_cache_that_a_fresh_one_would_be(model: Transformer, memory: ModelMemory):
    reader, text = memory.reader(), list(HISTORY)
    draws = random.Random(0)
    for _ in range(4):
        logits = read(reader, text)
        fresh = model.new_cache(64)
        same(logits, model.forward(Block.chain(text), fresh, [len(text) - 1], nothing))
        fresh.keep(range(len(text)), text)
        assert memory.cache.tokens == text
        same(held(memory.cache), held(fresh))
        tree = TokenTree.root(text[-1])
        nodes = [tree.add(0, token, 0.5) for token in range(5)]
        reader.read(tree, nodes, nothing)
        text += [draws.randrange(VOCABULARY) for _ in range(draws.randint(1, 6))]


@pytest.mark.parametrize("next_prompt", [HISTORY[:4], [*HISTORY[:3], 11, 12], [*HISTORY, 5], HISTORY, [1]])
def test_the_next_request_reads_only_what_differs(
    model: Transformer, memory: ModelMemory, next_prompt: list[int]
):
    read(memory.reader(), HISTORY)
    reader = memory.reader()
    shared = next((i for i, (a, b) in enumerate(zip(HISTORY, next_prompt, strict=False)) if a != b), 7)
    reader.begin(next_prompt)
    root = TokenTree.root(next_prompt[-1])
    assert reader.cost(root, [0]) == (max(0, len(next_prompt) - 1 - shared), 1)
    same(reader.read(root, [0], nothing), at_once(model, next_prompt, TokenTree.root(next_prompt[-1])))
    assert memory.cache.tokens == next_prompt


@pytest.mark.parametrize("layer", [0, 1])
def test_an_interruption_leaves_what_was_run_before_it(model: Transformer, memory: ModelMemory, layer: int):
    def interrupt(at: int) -> None:
        if at == layer:
            raise InterruptedError

    tree = TokenTree.root(HISTORY[-1])
    one, two = tree.add(0, 1, 0.5), tree.add(0, 2, 0.5)
    below = tree.add(one, 3, 0.5)
    expected = at_once(model, HISTORY, tree)
    reader = memory.reader()
    reader.begin(HISTORY)
    with pytest.raises(InterruptedError):
        reader.read(tree, [0], interrupt)
    same(reader.read(tree, [0], nothing)[0], expected[0])
    same(reader.read(tree, [one], nothing), expected[[one]])
    with pytest.raises(InterruptedError):
        reader.read(tree, [two, below], interrupt)
    same(reader.read(tree, [two, below], nothing), expected[[two, below]])


def test_the_first_guesses_are_the_models_own_choices_with_its_own_certainty(
    model: Transformer, memory: ModelMemory
):
    growth = grown(HISTORY, depth=1)
    deepened(memory.open(OPENING), growth)
    chances = at_once(model, HISTORY, TokenTree.root(HISTORY[-1]))[0].softmax(-1)
    best = chances.topk(3)
    assert [growth.tree.tokens[node] for node in (1, 2, 3)] == best.indices.tolist()
    assert growth.evidence[1:] == [evidence_of(chance) for chance in best.values.tolist()]


@pytest.mark.parametrize(("width", "num_beams", "depth"), [(1, 3, 6), (4, 1, 3), (6, 3, 2), (2, 8, 4)])
def test_bounds_hold(memory: ModelMemory, width: int, num_beams: int, depth: int):
    session = memory.open(OPENING)
    growth = grown(HISTORY, width=width, num_beams=num_beams, depth=depth)
    session.begin(HISTORY)
    while session.uncovered(growth) > 0:
        before = len(growth.tree)
        session.deepen(growth, nothing)
        assert len(growth.tree) - before <= width
    tree = growth.tree
    assert max(tree.depths) == depth
    assert max(len(tree.children(node)) for node in range(len(tree))) <= num_beams


def test_the_best_guesses_are_expanded_first_whoever_made_them(model: Transformer, memory: ModelMemory):
    session = memory.open(OPENING)
    growth = grown(HISTORY, width=1)
    session.begin(HISTORY)
    session.deepen(growth, nothing)
    foreign = growth.tree.add(growth.tree.add(0, 20, 0.99), 21, 0.98)
    expected = at_once(model, HISTORY, growth.tree)
    session.deepen(growth, nothing)
    session.deepen(growth, nothing)
    (below,) = growth.tree.children(foreign)
    assert below == int(expected[foreign].argmax())


def test_what_cannot_follow_is_not_guessed_and_where_the_text_ends_nothing_is_run(memory: ModelMemory):
    growth = grown(HISTORY)
    growth.outlook = Outlook(
        ends=frozenset({2}), allowed=lambda path: (2, 5) if not path else (7,) if path == [5] else None
    )
    deepened(memory.open(OPENING), growth)
    tree = growth.tree
    assert set(tree.children(0)) == {2, 5}
    assert set(tree.children(tree.children(0)[5])) == {7}
    assert not tree.children(tree.children(0)[2])
    assert max(tree.depths) == 4


def passes_of(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass from here on."""
    rows: list[int] = []
    forward = model.forward

    def counted(block: Block, *rest: Any) -> torch.Tensor:
        rows.append(len(block) - block.first)
        return forward(block, *rest)

    monkeypatch.setattr(model, "forward", counted)
    return rows


def test_what_was_drafted_of_a_text_that_came_is_remembered_as_the_model_said_it(
    model: Transformer, memory: ModelMemory, monkeypatch: pytest.MonkeyPatch
):
    session = memory.open(OPENING)
    first = deepened(session, grown(HISTORY))
    said = max(first.paths(), key=len)[:2]
    longer = [*HISTORY, *said]
    second = grown(longer)
    session.begin(longer)
    rows = passes_of(model, monkeypatch)
    while session.cost_ms(second) == 0.0:
        session.deepen(second, nothing)
    assert len(second.tree) > 1
    assert rows == []
    while session.uncovered(second) > 0:
        session.deepen(second, nothing)
    assert rows[0] < len(longer), "the text that was read is not read again"
    chances = at_once(model, longer, second.tree).softmax(-1)
    for node in range(1, len(second.tree)):
        chance = float(chances[second.tree.parents[node], second.tree.tokens[node]])
        assert abs(second.evidence[node] - evidence_of(chance)) <= 1, "one may be a step off by rounding"


def test_what_was_drafted_of_another_text_is_forgotten(model: Transformer, memory: ModelMemory):
    session = memory.open(OPENING)
    first = deepened(session, grown(HISTORY))
    other = next(token for token in range(VOCABULARY) if first.tree.child(0, token) is None)
    longer = [*HISTORY, other]
    fresh = ModelDrafter(model, 64, 128, TABLE).new_memory()
    assert (
        deepened(session, grown(longer)).tree.tokens
        == deepened(fresh.open(OPENING), grown(longer)).tree.tokens
    )


def test_reading_a_prompt_is_charged_over_many_steps(memory: ModelMemory):
    session, growth = memory.open(OPENING), grown(HISTORY)
    session.begin(HISTORY)
    cost_ms = session.cost_ms(growth)
    assert TABLE.ms(1) < cost_ms < TABLE.ms(len(HISTORY))
    session.deepen(growth, nothing)
    assert session.cost_ms(growth) == TABLE.ms(3)
    session.begin(HISTORY)
    assert session.cost_ms(growth) == 0.0, "what follows is remembered"
    session = memory.open(OPENING)
    session.begin(HISTORY)
    assert session.cost_ms(growth) == TABLE.ms(1)


def test_a_memory_takes_over_what_another_has_read(model: Transformer, memory: ModelMemory):
    read(memory.reader(), HISTORY)
    other = ModelDrafter(model, 64, 128, TABLE).new_memory()
    other.adopt(memory, [*HISTORY[:4], 0])
    assert other.cache.tokens == HISTORY[:4]
    reader = other.reader()
    reader.begin(HISTORY)
    assert reader.cost(TokenTree.root(HISTORY[-1]), [0]) == (2, 1)
    other.adopt(memory, HISTORY)
    assert other.cache.tokens == HISTORY
    other.adopt(ModelDrafter(model, 64, 128, TABLE).new_memory(), HISTORY)
    assert other.cache.tokens == HISTORY, "what knows less is of no use"


def test_a_draft_proposes_only_ids_that_the_target_knows_and_refuses_those_it_does_not_know_itself(
    model: Transformer,
):
    memory = ModelDrafter(model, 64, 128, TABLE, vocab_size=5).new_memory()
    assert read(memory.reader(), [1, 2, 3]).shape == (1, 5)
    beyond = model.config.vocab_size
    with pytest.raises(ValueError, match="does not know"):
        read(memory.reader(), [1, 2, beyond])
    reader, tree = memory.reader(), TokenTree.root(3)
    guess = tree.add(0, beyond, 0.5)
    reader.begin([1, 2, 3])
    with pytest.raises(ValueError, match="does not know"):
        reader.read(tree, [guess], nothing)


def test_evidence_rises_with_probability_and_every_value_has_a_prior_that_never_falls():
    evidence = [evidence_of(chance) for chance in (0.0, 1e-6, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)]
    assert evidence == sorted(evidence)
    assert evidence[0] == 0
    (priors,) = PRIORS
    assert evidence[-1] == len(priors) - 1
    assert len(set(evidence)) >= 6
    assert list(priors) == sorted(priors)
    assert all(0.0 < prior < 1.0 for prior in priors)
