"""Drafting the next tree while the target waits for its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from engine.costs import CostTable
from engine.decode import Decoder
from engine.draft.base import TreeLimits
from engine.draft.model import ModelDrafter
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.model import Block, Transformer
from engine.policy import DynamicPolicy
from tests.engine.scripted import (
    CHEAP,
    CONTEXT,
    LIMITS,
    PROMPT,
    WaitingTransformer,
    draft_model,
    dynamic,
    exact_target,
    model_drafter,
    nothing,
    reference,
    run,
    tiny_model,
    tokens_of,
    waiting,
)

CHAIN = TreeLimits(size=5, depth=5, width=1, num_beams=1)


class Watched(Transformer):
    """A draft model, sharing its weights, that tells `seen` of each of its passes."""

    def __init__(self, model: Transformer, seen: Callable[[], None]) -> None:
        self.__dict__.update(vars(model))
        self._seen = seen

    def forward(
        self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer
    ) -> torch.Tensor:
        self._seen()
        return super().forward(block, cache, rows, before_layer)


class Target(WaitingTransformer):
    """One that says whether it is in a pass."""

    inside = False

    def forward(
        self, block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer
    ) -> torch.Tensor:
        self.inside = True
        try:
            return super().forward(block, cache, rows, before_layer)
        finally:
            self.inside = False


def passes(target: Target) -> tuple[int, int]:
    """Passes of the draft model, here the target itself, between the target's own and within them."""
    between = within = 0

    def seen() -> None:
        nonlocal between, within
        if target.inside:
            within += 1
        else:
            between += 1

    drafter = model_drafter(Watched(exact_target(), seen))
    decoder = Decoder(target, DynamicPolicy((drafter,), CHAIN, CostTable.flat()), CONTEXT)
    assert tokens_of(run(decoder)) == reference(PROMPT, 18)
    return between, within


def test_what_is_drafted_in_the_waits_need_not_be_drafted_between_passes():
    alone, none = passes(Target(exact_target(), lambda _layer: 0.0))
    assert none == 0
    model = waiting(exact_target(), passes=6)
    between, within = passes(Target(exact_target(), model.wait_ms))
    assert within > 0
    assert between <= alone / 2


def test_a_wait_shorter_than_a_pass_of_the_draft_is_left_alone():
    short_ms = CHEAP.ms(1) / 2
    _, within = passes(Target(exact_target(), lambda _layer: short_ms))
    assert within == 0


def test_a_drafter_that_fails_in_a_wait_is_gone_without_and_the_text_is_the_same():
    target = Target(exact_target(), waiting(exact_target()).wait_ms)

    def fail() -> None:
        if target.inside:
            raise RuntimeError("the draft model broke")

    drafter = model_drafter(Watched(draft_model(), fail))
    steps = run(Decoder(target, dynamic(drafter), CONTEXT))
    assert tokens_of(steps) == reference(PROMPT, 18)
    assert steps[-1].failed == ("model",)


def test_an_interruption_in_a_wait_ends_the_targets_pass_too():
    target = Target(exact_target(), waiting(exact_target()).wait_ms)
    drafting = False

    def seen() -> None:
        nonlocal drafting
        drafting = target.inside

    def interrupt(_layer: int) -> None:
        if drafting:
            raise InterruptedError

    decoder = Decoder(target, dynamic(model_drafter(Watched(draft_model(), seen))), CONTEXT)
    slot = decoder.new_slot()
    with pytest.raises(InterruptedError):
        run(decoder, slot, before_layer=interrupt)
    drafting = False
    assert tokens_of(run(decoder, slot)) == reference(PROMPT, 18)


@pytest.mark.parametrize("seed", range(3))
def test_memory_for_what_is_drafted_ahead_never_runs_out(seed: int):
    """However much time there is, and with a draft that is never right."""
    draft = tiny_model(2 + seed)
    drafter = ModelDrafter(draft, CONTEXT, LIMITS.most_grown, CHEAP)
    decoder = Decoder(WaitingTransformer(exact_target(), lambda _layer: 1e9), dynamic(drafter), CONTEXT)
    steps = run(decoder, max_tokens=CONTEXT, before_layer=nothing)
    assert len(PROMPT) + len(tokens_of(steps)) == CONTEXT
    assert not steps[-1].failed
