"""The planner by itself, and a simulated target and drafter that it has to find its way with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from engine.costs import CostTable
from engine.draft.base import BeforeLayer, DraftMemory, Growth, Opening, Outlook, TreeLimits
from engine.planner import Planner
from engine.policy import DynamicPolicy
from engine.policy.base import Position
from tests.engine.scripted import nothing

STEEP = CostTable((1, 64), (10.0, 640.0))
FLAT = CostTable.flat(10.0)
STEPS = CostTable((1, 2, 3, 4, 6, 12, 32, 64), (31.0, 32.0, 34.0, 52.0, 60.0, 65.0, 83.0, 118.0))
"""A small model on a CPU: cheap up to three rows, then dearer at once."""
GPU = CostTable((1, 16, 64, 128), (20.0, 20.5, 24.0, 40.0))
SCORES = [0.9, 0.7, 0.5, 0.3, 0.2]


def test_rows_that_cost_as_much_as_passes_are_left_out():
    assert Planner(STEEP).size(SCORES, pending=0, left=100) == 0


def test_rows_that_cost_nothing_are_all_verified():
    assert Planner(FLAT).size(SCORES, pending=0, left=100) == len(SCORES)


def test_rows_are_taken_as_long_as_they_gain_more_than_the_rate():
    planner = Planner(CostTable((1, 64), (10.0, 10.0 + 63 * 4.0)))
    assert planner.rate == pytest.approx(0.1)
    assert planner.size([0.9, 0.7, 0.39, 0.3], pending=0, left=100) == 2


def test_a_step_up_in_cost_is_taken_where_what_lies_behind_it_pays():
    planner = Planner(STEPS)
    assert planner.size([0.5] * 2 + [0.05] * 20, pending=0, left=100) == 2
    assert planner.size([0.9] * 30, pending=0, left=100) > 20


def test_a_pass_that_a_prompt_needs_anyway_carries_rows_at_what_they_add():
    table = CostTable((1, 2, 10, 64), (10.0, 19.0, 20.0, 22.0))
    planner = Planner(table)
    assert planner.size([0.5], pending=0, left=100) == 0
    assert planner.size([0.5], pending=9, left=100) == 1


def test_no_more_is_verified_than_the_last_tokens_need():
    assert Planner(STEPS).size([1.0] * 9, pending=0, left=1) == 0
    assert Planner(GPU).size([1.0] * 9, pending=0, left=2) == 1


def test_nothing_drafted_is_nothing_to_verify():
    assert Planner(FLAT).size([], pending=0, left=100) == 0
    assert Planner(FLAT).size([], pending=5, left=2) == 0


def test_the_rate_follows_what_steps_give_and_leaves_the_reading_of_prompts_out():
    planner = Planner(GPU)
    for _ in range(1000):
        planner.record(4, rows=8, pending=0, drafting_ms=1.0)
    assert planner.rate == pytest.approx(4 / (GPU.ms(8) + 1.0), rel=0.01)
    before = planner.rate
    planner.record(4, rows=8, pending=100, drafting_ms=1.0)
    assert planner.rate == pytest.approx(before, rel=0.01)


def test_the_better_things_go_the_more_a_guess_must_be_worth():
    table = CostTable((1, 2), (10.0, 14.0))
    slow, fast = Planner(table), Planner(table)
    for _ in range(200):
        fast.record(8, rows=2, pending=0, drafting_ms=0.0)
    assert slow.size([0.5], pending=0, left=100) == 1
    assert fast.size([0.5], pending=0, left=100) == 0


@dataclass
class Guesser:
    """Drafts one chain, a guess a call, of token 0. What speaks for a guess is the kind of step it is in."""

    cost: float
    kind: int = 0
    spent_ms: float = 0.0
    name: str = "guesser"
    priors: tuple[tuple[float, ...]] = ((0.3, 0.6, 0.85),)
    _last: int | None = field(default=0, repr=False)

    def new_memory(self) -> Guesser:
        return self

    def open(self, opening: Opening) -> Guesser:
        return self

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None: ...

    def begin(self, history: object) -> None:
        self._last = 0

    def uncovered(self, growth: Growth) -> float:
        if self._last is None or growth.tree.depths[self._last] >= growth.limits.depth:
            return 0.0
        return growth.uncovered(self._last)

    def cost_ms(self, growth: Growth) -> float:
        return self.cost

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        assert self._last is not None
        self.spent_ms += self.cost
        self._last = growth.add(self._last, 0, self.kind)


Profile = list[tuple[int, float]]
"""Kinds of steps, equally frequent: what speaks for guesses there, and how often they are right."""


class Simulation:
    """Text that comes as a profile says, and a clock that goes as a table says."""

    MOST = 8

    def __init__(self, table: CostTable, cost: float) -> None:
        self._table = table
        self._drafter = Guesser(cost)
        limits = TreeLimits(self.MOST, self.MOST, width=8, num_beams=8)
        policy = DynamicPolicy([self._drafter], limits, table)
        self._session = policy.open(policy.new_memories(), Opening([0], []), greedy=True)
        self._random = random.Random(0)

    def run(self, profile: Profile, steps: int) -> Outcome:
        """`steps` further steps, against what chains of a fixed length would have made of the same luck."""
        table, drafter = self._table, self._drafter
        runs: list[int] = []
        tokens, time_ms, drafting_ms, root = 0, 0.0, 0.0, 1
        for _ in range(steps):
            drafter.kind, chance = self._random.choice(profile)
            right = 0
            while right < 2 * self.MOST and self._random.random() < chance:
                right += 1
            runs.append(right)
            drafter.spent_ms = 0.0
            tree = self._session.grow(Position([root], 0, 10**6, Outlook()), nothing)
            accepted = min(right, len(tree) - 1)
            root = int(accepted == right)
            self._session.learn([0] * accepted + [root])
            tokens += accepted + 1
            drafting_ms += drafter.spent_ms
            time_ms += table.ms(len(tree)) + drafter.spent_ms
        fixed = [
            sum(min(right, n) + 1 for right in runs) / steps / (table.ms(1 + n) + n * drafter.cost)
            for n in range(self.MOST + 1)
        ]
        rate = tokens / time_ms
        return Outcome(rate / fixed[0], rate / max(fixed), drafting_ms / time_ms)


@dataclass(frozen=True)
class Outcome:
    over_plain: float
    over_best_fixed: float
    drafting_share: float


HOPELESS: Profile = [(0, 0.02)]
POOR: Profile = [(0, 0.2)]
FAIR: Profile = [(1, 0.5)]
GOOD: Profile = [(1, 0.8)]
PREDICTABLE: Profile = [(2, 0.95)]
MIXED: Profile = [(0, 0.05), (1, 0.5), (2, 0.95)]


@pytest.mark.parametrize("profile", [HOPELESS, POOR, FAIR, GOOD, PREDICTABLE, MIXED])
@pytest.mark.parametrize(("table", "cost"), [(STEPS, 0.03), (STEPS, 3.0), (GPU, 0.5), (GPU, 3.0)])
def test_speculation_comes_within_five_percent_of_the_best_fixed_length_in_hindsight(
    table: CostTable, cost: float, profile: Profile
):
    simulation = Simulation(table, cost)
    simulation.run(profile, 200)
    assert simulation.run(profile, 300).over_best_fixed > 0.95


def test_where_steps_differ_trees_that_adapt_beat_every_fixed_length():
    simulation = Simulation(GPU, 3.0)
    simulation.run(MIXED, 200)
    assert simulation.run(MIXED, 400).over_best_fixed > 1.1


@pytest.mark.parametrize("profile", [HOPELESS, PREDICTABLE])
@pytest.mark.parametrize(("table", "cost"), [(STEEP, 0.03), (STEEP, 3.0)])
def test_plain_decoding_is_not_beaten_where_nothing_pays(table: CostTable, cost: float, profile: Profile):
    assert Simulation(table, cost).run(profile, 1000).over_plain > 0.98


@pytest.mark.parametrize("cost", [0.5, 3.0])
def test_a_drafter_that_does_not_pay_is_only_tried_now_and_then(cost: float):
    simulation = Simulation(STEPS, cost)
    first = simulation.run(HOPELESS, 400)
    assert first.over_plain > 0.95, "finding out is cheap"
    later = simulation.run(HOPELESS, 600)
    assert later.over_plain > 0.98
    assert 0.0 < later.drafting_share < 0.012


@pytest.mark.parametrize("cost", [0.03, 0.5])
def test_a_drafter_that_begins_to_pay_is_used_again(cost: float):
    simulation = Simulation(GPU, cost)
    simulation.run(HOPELESS, 600)
    simulation.run(GOOD, 600)
    assert simulation.run(GOOD, 200).over_best_fixed > 0.95
