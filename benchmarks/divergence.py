"""Where two texts that ought to be equal part, and whether rounding explains it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from torch import Tensor

NOISE = 1e-3
"""Logits of float32 passes of different shapes differ by less than this; measured about 1e-5."""


def parting(one: Sequence[int], other: Sequence[int]) -> int | None:
    """How many tokens the two begin with in common; None if they are equal."""
    pairs = enumerate(zip_longest(one, other))
    return next((index for index, (a, b) in pairs if a != b), None)


def lead(logits: Tensor) -> float:
    """The best of [vocab] logits less the second best: texts part over a small one, not over a large one."""
    best = logits.topk(2).values
    return float(best[0] - best[1])
