"""Several draft models whose guesses become one tree."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from heapq import nlargest

import pytest
import torch

from engine.costs import CostTable
from engine.decode import Decoder
from engine.draft.base import BeforeLayer, DraftMemory, Growth, Opening, Outlook, TreeLimits
from engine.draft.model import ModelDrafter
from engine.kv_cache import KVCache
from engine.model import Block, Transformer
from engine.policy import DynamicPolicy
from engine.policy.base import Position
from engine.sampling import SamplingParams
from engine.speculation import TimedModel, dynamic_policy
from tests.engine.scripted import (
    CHEAP,
    CONTEXT,
    GREEDY,
    LIMITS,
    PROMPT,
    exact_target,
    nothing,
    reference,
    run,
    tiny_model,
    tokens_of,
    waiting,
)

SAMPLED = SamplingParams(temperature=1.3, top_k=12, top_p=0.95, seed=5)
ASK = 9
"""Tokens asked for where models run."""


class Draft(Transformer):
    """`model`, whose weights it shares, saying what `said` makes of its logits."""

    def __init__(self, model: Transformer, said: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.__dict__.update(vars(model))
        self._said = said

    def forward(
        self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer
    ) -> torch.Tensor:
        return self._said(super().forward(block, cache, rows, before_layer))


def perfect() -> Draft:
    return Draft(exact_target(), lambda logits: logits)


def perverse() -> Draft:
    """One that is sure of what the target thinks least of."""
    return Draft(exact_target(), lambda logits: -3.0 * logits)


def broken(after: int = 0) -> Draft:
    """One that fails after so many passes."""
    passes = 0

    def said(logits: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes > after:
            raise RuntimeError("the draft model broke")
        return logits

    return Draft(exact_target(), said)


def decoder_with(*drafts: Transformer, target: Transformer | None = None) -> Decoder:
    """With the policy that ships, of models alone, named by their order, that always pay."""
    drafters = [
        ModelDrafter(draft, CONTEXT, LIMITS.most_grown, CHEAP, name=str(number))
        for number, draft in enumerate(drafts)
    ]
    policy = DynamicPolicy(drafters, LIMITS, CostTable.flat())
    return Decoder(target or exact_target(), policy, CONTEXT)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("ahead", [False, True], ids=["between passes", "in the waits too"])
@pytest.mark.parametrize("kind", ["a better one", "a perverse one", "failing ones"])
def test_whatever_several_drafts_say_text_is_plain_decodings(kind: str, params: SamplingParams, ahead: bool):
    drafts = {
        "a better one": (tiny_model(1), perfect()),
        "a perverse one": (perverse(), tiny_model(1), tiny_model(2)),
        "failing ones": (broken(), tiny_model(1), broken(3)),
    }[kind]
    decoder = decoder_with(*drafts, target=waiting(exact_target()) if ahead else None)
    slot = decoder.new_slot()
    for prompt in (PROMPT, (*PROMPT[:5], 20, 21)):
        steps = run(decoder, slot, prompt, params, max_tokens=ASK)
        assert tokens_of(steps) == reference(prompt, 18, params)[:ASK]


def test_those_that_fail_are_named_and_the_others_go_on():
    steps = run(decoder_with(broken(), perfect(), broken(2)), max_tokens=12)
    assert steps[-1].failed == ("0", "2")
    assert tokens_of(steps) == reference(PROMPT, 18)[:12]
    assert steps[-1].counts.target_passes == 12 / (LIMITS.depth + 1)


def test_a_slot_takes_over_what_each_draft_has_read():
    decoder = decoder_with(tiny_model(1), tiny_model(2))
    read, other = decoder.new_slot(), decoder.new_slot()
    run(decoder, read, max_tokens=12)
    other.adopt(read, PROMPT)
    held = [memory.cache.tokens for memory in other.drafts]  # pyright: ignore[reportAttributeAccessIssue]
    assert held == [list(PROMPT)] * 2


def test_the_fastest_comes_first_and_each_is_named_by_its_place_in_the_configuration():
    drafts = [TimedModel(broken(), CostTable.flat(cost_ms)) for cost_ms in (0.003, 0.001, 0.002)]
    policy = dynamic_policy(LIMITS, CostTable.flat(), drafts, CONTEXT)
    steps = run(Decoder(exact_target(), policy, CONTEXT), max_tokens=3)
    assert steps[-1].failed == ("model 2", "model 3", "model 1")
    policy = dynamic_policy(LIMITS, CostTable.flat(), drafts[:1], CONTEXT)
    assert run(Decoder(exact_target(), policy, CONTEXT), max_tokens=3)[-1].failed == ("model",)


WRONG = 1_000_000
"""No token of any text."""


class Knowing:
    """Drafts as a model does, a level a call, of the tokens that `knows` it does, by their places.

    What it does not know it guesses wrongly, and is less sure of. Drafter, memory and session in one.
    """

    name = "knowing"
    priors = ((0.4, 0.6),)

    def __init__(self, text: Sequence[int], knows: Callable[[int], bool], cost_ms: float) -> None:
        self._text = text
        self._knows = knows
        self._cost_ms = cost_ms
        self._expanded: set[int] = set()
        self._remembered: set[int] = set()
        """Places of which it has said what stands there."""
        self.calls = 0
        """Of them that took time."""

    def new_memory(self) -> Knowing:
        return self

    def open(self, opening: Opening) -> Knowing:
        return self

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None: ...

    def begin(self, history: Sequence[int]) -> None:
        self._expanded = set()

    def _frontier(self, growth: Growth) -> list[int]:
        tree = growth.tree
        left = [
            node
            for node in range(len(tree))
            if node not in self._expanded and tree.depths[node] < growth.limits.depth
        ]
        known = [node for node in left if self._place(growth, node) in self._remembered]
        return known or nlargest(growth.limits.width, left, key=lambda node: tree.scores[node])

    def _place(self, growth: Growth, node: int) -> int | None:
        """Where in the text the token after `node` stands; None if `node` is not in the text."""
        path, at = growth.tree.path(node), len(growth.history)
        return at + len(path) if path == self._text[at : at + len(path)] else None

    def uncovered(self, growth: Growth) -> float:
        return sum(growth.uncovered(node) for node in self._frontier(growth))

    def cost_ms(self, growth: Growth) -> float:
        return 0.0 if self._place(growth, self._frontier(growth)[0]) in self._remembered else self._cost_ms

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        self.calls += self.cost_ms(growth) > 0.0
        for node in self._frontier(growth):
            self._expanded.add(node)
            place = self._place(growth, node)
            right = place is not None and self._knows(place)
            growth.add(node, self._text[place] if place is not None and right else WRONG, int(right))
            if place is not None:
                self._remembered.add(place)


class Race:
    """Text that is given, and drafters for it whose calls are counted."""

    SIZE = 8

    def __init__(self, *drafters: tuple[Callable[[int], bool], float]) -> None:
        """By what each knows and what a call of it takes; a pass of the target takes 1 ms."""
        draws = random.Random(0)
        self._text = [draws.randrange(1000) for _ in range(20_000)]
        self._at = 1
        self.drafters = [Knowing(self._text, *each) for each in drafters]
        limits = TreeLimits(self.SIZE, self.SIZE, width=2, num_beams=1)
        policy = DynamicPolicy(self.drafters, limits, CostTable.flat())
        self._session = policy.open(policy.new_memories(), Opening([0], []), greedy=True)

    def run(self, steps: int, spare_ms: Callable[[], float] | None = None) -> float:
        """Tokens a step, of so many; before drawing, `spare_ms` tells of time to draft ahead."""
        began = self._at
        for drafter in self.drafters:
            drafter.calls = 0
        for _ in range(steps):
            history = self._text[: self._at]
            tree = self._session.grow(Position(history, 0, 10_000, Outlook()), nothing)
            if spare_ms is not None:
                self._session.grow_on(spare_ms, nothing)
            node, emitted = 0, list[int]()
            while node is not None:
                emitted.append(self._text[self._at])
                node = tree.child(node, emitted[-1])
                self._at += 1
            self._session.learn(emitted)
        return (self._at - began) / steps


def never(_place: int) -> bool:
    return False


def mostly(place: int) -> bool:
    return place % 5 != 0


def half(place: int) -> bool:
    return place % 10 < 5


def other_half(place: int) -> bool:
    return not half(place)


@pytest.mark.parametrize("costs_ms", [(0.05, 0.05), (0.01, 0.1), (0.1, 0.01)])
def test_beside_a_good_draft_a_useless_one_takes_no_tokens_and_hardly_a_pass(costs_ms: tuple[float, float]):
    alone, beside = Race((mostly, costs_ms[1])), Race((never, costs_ms[0]), (mostly, costs_ms[1]))
    alone.run(100)
    beside.run(100)
    assert beside.run(200) > 0.98 * alone.run(200)
    bad, _ = beside.drafters
    assert bad.calls * costs_ms[0] < 0.02 * 200


def test_two_drafts_that_know_different_things_are_better_than_either():
    """At the places where what they know changes, each goes on from what the other has guessed."""
    races = Race((half, 0.01)), Race((other_half, 0.01)), Race((half, 0.01), (other_half, 0.01))
    for race in races:
        race.run(100)
    one, other, both = (race.run(200) for race in races)
    assert both > 2 * max(one, other)
    assert both > Race.SIZE


def test_what_a_dear_draft_adds_to_a_cheap_one_is_paid_for_only_if_it_is_worth_it():
    def all_but_a_few(place: int) -> bool:
        return place % 50 != 0

    worth, not_worth = Race((half, 0.01), (other_half, 0.1)), Race((all_but_a_few, 0.01), (never, 0.1))
    for race, asked in ((worth, True), (not_worth, False)):
        race.run(200)
        race.run(200)
        cheap, dear = race.drafters
        assert (dear.calls > cheap.calls / 10) == asked


def passes_to_spare(count: int) -> Callable[[], float]:
    """Time for so many a step."""
    left = itertools.cycle([*[60.0] * count, 0.0])
    return lambda: next(left)


@pytest.mark.parametrize("order", [1, -1])
def test_in_the_waits_the_draft_that_covers_more_is_asked_first(order: int):
    alone, beside = Race((mostly, 5.0)), Race(*((never, 5.0), (mostly, 5.0))[::order])
    gained: list[float] = []
    for race in (alone, beside):
        race.run(100, passes_to_spare(14))
        gained.append(race.run(200, passes_to_spare(14)))
    bad, good = beside.drafters[::order]
    assert gained[1] >= gained[0] > 2
    assert good.calls > 1.5 * bad.calls
    assert beside.run(100) < 1.1, "between passes neither pays"
