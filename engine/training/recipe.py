"""How the bundled pair is made: one recipe for two CPU cores and an afternoon, one for a data-centre GPU."""

from __future__ import annotations

from dataclasses import dataclass

from engine.training.examples import ExampleMix
from engine.training.shapes import ModelShape
from engine.training.train import TrainPlan

TEMPLATE = "llama3-code"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes, lengths and learning rates of one pair."""

    target: ModelShape
    draft: ModelShape
    vocabulary: int
    length: int
    """Tokens a row, and the pair's context."""
    mix: ExampleMix
    plan: TrainPlan
    """The target's."""
    draft_tokens: int
    lessons: int
    lesson_length: int


RECIPES = {
    # 3.1M parameters in the layers and 2.1M in the embedding: what some 25M tokens, all that two cores
    # read in a few hours, can fill (Hoffmann et al. 2022).
    "cpu": Recipe(
        target=ModelShape(256, 768, 4, 4, 2),
        draft=ModelShape(128, 384, 2, 2, 1),
        vocabulary=8192,
        length=1024,
        mix=ExampleMix(),
        plan=TrainPlan(tokens=26_000_000, matrix_lr=0.015),
        draft_tokens=4_000_000,
        lessons=1200,
        lesson_length=512,
    ),
    # 29M and 5M parameters.
    "gpu": Recipe(
        target=ModelShape(512, 1536, 8, 8, 4),
        draft=ModelShape(256, 768, 4, 4, 2),
        vocabulary=8192,
        length=2048,
        mix=ExampleMix(window=4800, max_suffix=1200, max_context=1600, pieces=4),
        plan=TrainPlan(tokens=500_000_000, batch_rows=128, micro_rows=32, matrix_lr=0.02, save_every=200),
        draft_tokens=100_000_000,
        lessons=20_000,
        lesson_length=1024,
    ),
}
