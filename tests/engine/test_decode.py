"""The decoder's loop: what a step says, where a generation ends, and what a drafter's failure does to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from engine.decode import Decoder
from engine.draft.base import BeforeLayer, Growth, Opening
from engine.jobs import Cancelled
from engine.model import Block, Transformer
from engine.policy import PlainPolicy, TreePolicy
from engine.protocol import StopReason
from tests.engine.scripted import (
    CONTEXT,
    LIMITS,
    PROMPT,
    Anything,
    Never,
    ScriptedDrafter,
    ScriptedPolicy,
    at_random,
    draft_model,
    dynamic,
    exact_target,
    full,
    model_drafter,
    oracle,
    reference,
    run,
    shipped,
    static,
    tokens_of,
)


def truth() -> list[int]:
    """The prompt with its text."""
    return [*PROMPT, *reference(PROMPT, 18)]


def decoder_of(policy: TreePolicy) -> Decoder:
    return Decoder(exact_target(), policy, CONTEXT)


def test_the_first_tree_is_verified_in_the_prefill_pass():
    (step,) = run(decoder_of(ScriptedPolicy(oracle(truth()))), max_tokens=6)
    assert step.counts.target_passes == 1
    assert len(step.tokens) == 6


def test_a_long_prompt_is_read_in_passes_of_bounded_size_by_target_and_draft_alike(
    monkeypatch: pytest.MonkeyPatch,
):
    prompt = PROMPT * 3
    expected = reference(prompt, 18)
    sizes: list[int] = []
    forward = Transformer.forward

    def measured(self: Transformer, block: Block, *rest: Any) -> torch.Tensor:
        sizes.append(len(block) - block.first)
        return forward(self, block, *rest)

    monkeypatch.setattr("engine.prefill.PREFILL_ROWS", 8)
    monkeypatch.setattr(Transformer, "forward", measured)
    steps = run(decoder_of(shipped()), prompt=prompt)
    assert tokens_of(steps) == expected
    assert max(sizes) <= 8 + LIMITS.size
    assert steps[0].counts.target_passes == 3


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 7])
@pytest.mark.parametrize(
    "policy",
    [lambda: ScriptedPolicy(oracle(truth())), lambda: ScriptedPolicy(full(40), 40), shipped],
    ids=["oracle", "full", "shipped"],
)
def test_exactly_as_many_tokens_come_as_were_asked_for(max_tokens: int, policy: Callable[[], TreePolicy]):
    steps = run(decoder_of(policy()), max_tokens=max_tokens)
    assert tokens_of(steps) == truth()[len(PROMPT) :][:max_tokens]
    assert steps[-1].stop is StopReason.LENGTH
    assert steps[-1].counts.generated == max_tokens
    assert [step.stop for step in steps[:-1]] == [None] * (len(steps) - 1)


def test_counts_are_those_of_the_trees():
    policy = ScriptedPolicy(at_random(1))
    steps = run(decoder_of(policy))
    before = 0
    for step, tree in zip(steps, policy.trees, strict=True):
        node, accepted = 0, 0
        for token in step.tokens:
            child = tree.child(node, token)
            if child is not None:
                node, accepted = child, accepted + 1
        assert step.counts.accepted - before == accepted
        before = step.counts.accepted
    last = steps[-1].counts
    assert last.drafted == sum(len(tree) - 1 for tree in policy.trees)
    assert last.target_passes == len(steps)
    assert (last.prompt, last.reused, last.generated) == (len(PROMPT), 0, 18)
    assert all(len(step.logprobs) == len(step.tokens) for step in steps)


@pytest.mark.parametrize("size", [0, CONTEXT, CONTEXT + 1])
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused(size: int):
    with pytest.raises(ValueError, match="does not fit"):
        run(decoder_of(PlainPolicy()), prompt=[1] * size)


def test_a_request_without_speculation_asks_no_drafter():
    def deepen(growth: Growth, before_layer: BeforeLayer) -> None:
        pytest.fail("asked")

    steps = run(decoder_of(dynamic(ScriptedDrafter(deepen))), speculative=False)
    assert tokens_of(steps) == truth()[len(PROMPT) :]
    assert steps[-1].counts.drafted == 0
    assert steps[-1].failed == ()


class Rewriting(Anything, Never):
    """Says that the first tokens only wrote again what was there."""

    def __init__(self, of: int) -> None:
        self.pushed = 0
        self.of = of

    def push(self, token: int) -> StopReason | None:
        self.pushed += 1
        return None

    @property
    def rewritten(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.pushed, self.of)


@pytest.mark.parametrize("speculative", [False, True])
def test_tokens_that_write_a_word_again_are_not_among_those_asked_for(speculative: bool):
    rewriting = Rewriting(3)
    decoder = decoder_of(shipped())

    def ask(prompt: Sequence[int], max_tokens: int):
        return run(
            decoder,
            prompt=prompt,
            stop=rewriting,
            constraint=rewriting,
            max_tokens=max_tokens,
            speculative=speculative,
        )

    steps = ask(PROMPT, 5)
    assert len(tokens_of(steps)) == 8
    assert steps[-1].counts.generated == 5
    assert len(tokens_of(ask([*PROMPT, *tokens_of(steps)], 2))) == 2, "they were written before it resumed"


@dataclass
class Faulty:
    """A drafter with one guess a step that in the `step`th raises in `method`, after its guess if `late`."""

    method: str
    step: int = 1
    late: bool = False
    name: str = "faulty"
    priors: tuple[tuple[float, ...], ...] = ((0.5,),)
    steps: int = 0
    done: bool = False
    broken: bool = False

    def _visit(self, method: str) -> None:
        assert not self.broken, "asked again"
        if method == self.method and self.steps >= self.step:
            self.broken = True
            raise RuntimeError("a fault of the drafter's own")

    def new_memory(self) -> "Faulty":
        return self

    def adopt(self, other: object, tokens: Sequence[int]) -> None: ...

    def open(self, opening: Opening) -> "Faulty":
        self.steps += self.method == "open"
        self._visit("open")
        return self

    def begin(self, history: Sequence[int]) -> None:
        self.steps += 1
        self.done = False
        self._visit("begin")

    def uncovered(self, growth: Growth) -> float:
        self._visit("uncovered")
        return 0.0 if self.done else growth.uncovered(0)

    def cost_ms(self, growth: Growth) -> float:
        self._visit("cost_ms")
        return 0.001

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        before_layer(0)
        if not self.late:
            self._visit("deepen")
        self.done = True
        growth.add(0, truth()[len(growth.history)], 0)
        self._visit("deepen")


@pytest.mark.parametrize(
    ("method", "step", "late"),
    [
        ("open", 1, False),
        ("begin", 1, False),
        ("uncovered", 1, False),
        ("cost_ms", 2, False),
        ("deepen", 1, False),
        ("deepen", 1, True),
        ("deepen", 3, True),
    ],
)
def test_a_drafter_that_raises_is_named_from_then_on_and_changes_nothing_else(
    method: str, step: int, late: bool
):
    faulty = Faulty(method, step, late)
    steps = run(decoder_of(dynamic(faulty, model_drafter())), max_tokens=10)
    assert faulty.broken
    assert tokens_of(steps) == truth()[len(PROMPT) :][:10]
    assert [one.failed for one in steps] == [()] * (step - 1) + [("faulty",)] * (len(steps) - step + 1)
    assert steps[-1].counts.drafted > step, "the others are still asked"


@pytest.mark.parametrize("policy", [static, shipped], ids=["static", "dynamic"])
def test_a_draft_model_that_fails_leaves_the_request_to_the_target(
    policy: Callable[[], TreePolicy], monkeypatch: pytest.MonkeyPatch
):
    forward = Transformer.forward
    passes = 0

    def failing(self: Transformer, *rest: Any) -> torch.Tensor:
        nonlocal passes
        if self is draft_model():
            passes += 1
            if passes >= 3:
                raise MemoryError
        return forward(self, *rest)

    monkeypatch.setattr(Transformer, "forward", failing)
    decoder = decoder_of(policy())
    slot = decoder.new_slot()
    steps = run(decoder, slot)
    assert passes == 3
    assert tokens_of(steps) == truth()[len(PROMPT) :]
    assert steps[-1].failed == ("model",)
    monkeypatch.undo()
    again = run(decoder, slot)
    assert tokens_of(again) == truth()[len(PROMPT) :]
    assert again[-1].failed == ()
    assert again[-1].counts.drafted > 0, "the next request asks it again"


def test_an_interruption_inside_a_drafter_is_no_fault_of_its():
    def cancel_once(_layer: int) -> None:
        if faulty.steps == 1:
            faulty.steps = 2
            raise Cancelled

    faulty = Faulty("deepen", step=100)
    with pytest.raises(Cancelled):
        run(decoder_of(dynamic(faulty)), before_layer=cancel_once)
    assert faulty.steps == 2


def test_a_slot_that_adopts_a_longer_prefix_drafts_from_that_slots_text():
    decoder = decoder_of(shipped())
    ahead, own = decoder.new_slot(), decoder.new_slot()
    run(decoder, ahead)
    own.adopt(ahead, truth())
    assert own.text == truth()
    run(decoder, ahead, prompt=[*PROMPT, 5], max_tokens=1)
    assert own.text == truth(), "it is a text of its own"
