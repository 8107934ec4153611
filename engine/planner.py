"""How much to draft and how much of it to verify, from what passes take and what guesses are worth.

Per step a tree of n rows yields A(n) = 1 + the sum of its guesses' probabilities, and costs T(n). Text
comes fastest, in the long run, where every step maximises A(n) - R * T(n), R being the rate that this very
rule achieves (a ratio maximised by its parametric form: Dinkelbach 1967). R is followed as text is made, in
the tables' own milliseconds: a machine that is slow today is slow for all sizes. One row is always a
candidate, and that is plain decoding.

Pure arithmetic: knows no models, and reads no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine.costs import CostTable

FADE = 1 / 32
"""Weight of one step in the running averages."""
TRIAL_SHARE = 0.01
"""Of the time: what may be spent on trying a drafter that did not pay."""
TRIAL_WEIGHT = 1 / 4
"""Of one trial, or of one deepening ahead, in place of FADE."""
PRIOR_TRIES = 4
"""Tries that the first estimate of a drafter's worth counts for."""
LEVELS = 8
"""Levels that are told apart; the last stands for all deeper ones."""
TRIAL_LEVELS = 3
LEAST_UNCOVERED = 0.25
"""Probability under which a trial says too little."""
LEAST_COVERED = 1e-3
SHORT = 4
"""Tokens left at which whole steps are counted rather than a rate."""
LOWEST_SCORE = 0.002


@dataclass(frozen=True, slots=True)
class Try:
    """A drafter's adding to a tree once."""

    uncovered: float
    """The probability that the target would have left the tree where it was added to."""
    cost_ms: float
    value: float
    """What the drafter had added to the tree's worth before, in tokens."""


class Usefulness:
    """Whether a drafter pays, level by level: what it adds where the tree does not cover what may come."""

    def __init__(self) -> None:
        self._yields = [0.5] * LEVELS
        """Tokens gained for each unit of uncovered probability, what deeper levels then gained included."""
        self._tries = [PRIOR_TRIES] * LEVELS
        self._tried_ms = 0.0
        self._covers = 0.5
        """Of the uncovered probability, what one deepening covers."""

    def worth(self, asked: Try, done: Sequence[Try], rate: float, now_ms: float) -> bool:
        """Whether to do that after what was `done` in this step: it pays, or it is time to try again."""
        expected = self._yields[min(len(done), LEVELS - 1)] * asked.uncovered
        if expected > rate * asked.cost_ms:
            return True
        # A trial goes a few levels deep, for where cost rises in steps the first ones may gain nothing.
        spent_ms = asked.cost_ms * TRIAL_LEVELS if not done else asked.cost_ms + sum(t.cost_ms for t in done)
        share_ms = TRIAL_SHARE * (now_ms - self._tried_ms)
        return asked.uncovered > LEAST_UNCOVERED and share_ms >= spent_ms

    def learn(self, tries: Sequence[Try], value: float, rate: float, now_ms: float) -> None:
        """Take in all tries of a step, in which the drafter added `value` to the tree's worth."""
        later_ms = 0.0
        for level, tried in reversed([*enumerate(tries)]):
            gained = value - tried.value - rate * later_ms
            later_ms += tried.cost_ms
            at = min(level, LEVELS - 1)
            self._tries[at] += 1
            paid = self._yields[at] * tried.uncovered > rate * tried.cost_ms
            if not paid:
                self._tried_ms = now_ms
            weight = max(FADE, 1 / self._tries[at]) if paid else TRIAL_WEIGHT
            # Where there was little to cover, the quotient says little.
            self._yields[at] += (
                weight * min(1.0, tried.uncovered) * (gained / tried.uncovered - self._yields[at])
            )

    def promise(self, uncovered: float, cost_ms: float) -> float:
        """Probability that a deepening covers a millisecond, where time itself costs nothing."""
        return math.inf if cost_ms == 0.0 else self._covers * uncovered / cost_ms

    def covered(self, uncovered: float, found: float) -> None:
        """Take in that a deepening `found` guesses of so much probability where so much was `uncovered`."""
        # Never nothing at all: where nobody else can use the time, it may as well be tried.
        self._covers += TRIAL_WEIGHT * (min(max(found / uncovered, LEAST_COVERED), 1.0) - self._covers)


class Planner:
    """The rate R, and the decisions that follow from it. One for text of one kind."""

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._tokens = 1.0
        self._spent_ms = costs.ms(1)
        self.now_ms = 0.0
        """Time spent so far, by the tables."""
        widest = costs.rows[-1]
        self._row_ms = (costs.ms(widest) - costs.ms(1)) / max(1, widest - 1)

    @property
    def rate(self) -> float:
        """R: tokens a millisecond, lately."""
        return self._tokens / self._spent_ms

    @property
    def floor(self) -> float:
        """The score under which a guess is never verified."""
        return max(LOWEST_SCORE, 0.5 * self.rate * self._row_ms)

    def value(self, scores: Sequence[float], pending: int) -> float:
        """The best A(n) - R * T(n), T beside the pass that `pending` uncached tokens need anyway.

        `scores` of the guesses, falling.
        """
        return max(self._values(scores, pending))

    def size(self, scores: Sequence[float], pending: int, left: int) -> int:
        """How many of the guesses with `scores`, falling, to verify where `left` tokens [>= 1] may follow."""
        if left <= SHORT and not pending:
            # Few tokens take few steps, and what is gained beyond them is nothing.
            yields = [*accumulate(scores, initial=1.0)]
            times = [math.ceil(left / a) * self._costs.ms(1 + n) for n, a in enumerate(yields)]
            return times.index(min(times))
        values = self._values(scores, pending)
        return values.index(max(values))

    def _values(self, scores: Sequence[float], pending: int) -> list[float]:
        rate, ms = self.rate, self._costs.ms
        base = ms(1 + pending)
        yields = accumulate(scores, initial=1.0)
        return [a - rate * (ms(1 + n + pending) - base) for n, a in enumerate(yields)]

    def record(self, tokens: int, rows: int, pending: int, drafting_ms: float) -> None:
        """Take in a step: tokens it gave, rows of its tree, uncached tokens before them, time for drafts."""
        ms = self._costs.ms
        # What a prompt's reading takes is nobody's choice and no part of the rate.
        spent_ms = ms(1) + ms(rows + pending) - ms(1 + pending) + drafting_ms
        self._tokens += FADE * (tokens - self._tokens)
        self._spent_ms += FADE * (spent_ms - self._spent_ms)
        self.now_ms += spent_ms
