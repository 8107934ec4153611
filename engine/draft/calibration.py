"""What a drafter's evidence is worth: how often the target draws what it guessed, learnt as text is made.

Evidence is a small whole number. It comes in kinds, runs of numbers within which more is never worth less:
there the estimates are made monotone (isotonic regression by pooling adjacent violators, Ayer et al. 1955).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

PRIOR_WEIGHT = 8.0
"""Observations that the prior counts for."""
MEMORY = 250.0
"""Observations of one kind after which all of that kind begin to fade: text and models differ."""
REFRESH = 16
"""Observations after which the estimates are made anew."""
LOWEST, HIGHEST = 1e-4, 0.999


class Calibration:
    """Of one drafter, by evidence: (hits + weight * prior) / (trials + weight), made monotone by kind."""

    def __init__(self, priors: Sequence[Sequence[float]]) -> None:
        """`priors` by kind, then by evidence: a kind's numbers follow those of the kind before."""
        self._priors = [chance for kind in priors for chance in kind]
        ends = list(accumulate(map(len, priors)))
        self._kinds = [range(end - len(kind), end) for kind, end in zip(priors, ends, strict=True)]
        self._hits = [0.0] * len(self._priors)
        self._trials = [0.0] * len(self._priors)
        self._fresh = 0
        self.chances = self._estimates()
        """By evidence: the probability that such a guess is right, where its parent was."""

    def learn(self, evidence: int, *, hit: bool) -> None:
        """Take in what became of one guess whose parent the target got to."""
        if self._trials[evidence] >= MEMORY:
            self._hits[evidence] /= 2
            self._trials[evidence] /= 2
        self._hits[evidence] += hit
        self._trials[evidence] += 1
        self._fresh += 1
        if self._fresh >= REFRESH:
            self._fresh = 0
            self.chances = self._estimates()

    def _estimates(self) -> list[float]:
        return [chance for kind in self._kinds for chance in self._monotone(kind)]

    def _monotone(self, kind: range) -> list[float]:
        pools: list[tuple[float, float, int]] = []
        """Weighted sum, weight and number of neighbours that share an estimate."""
        for evidence in kind:
            total = self._hits[evidence] + PRIOR_WEIGHT * self._priors[evidence]
            weight, size = self._trials[evidence] + PRIOR_WEIGHT, 1
            while pools and pools[-1][0] * weight >= total * pools[-1][1]:
                below = pools.pop()
                total, weight, size = total + below[0], weight + below[1], size + below[2]
            pools.append((total, weight, size))
        return [
            min(max(total / weight, LOWEST), HIGHEST) for total, weight, size in pools for _ in range(size)
        ]
