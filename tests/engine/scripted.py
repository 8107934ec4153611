"""Tiny random models, and stops, constraints, drafters and tree policies that do as they are told.

For the decoder's tests: `reference` is what they hold its text against.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from engine.checkpoint import Checkpoint
from engine.costs import CostTable
from engine.decode import Constraint, Decoder, Step, StopRule
from engine.draft.base import BeforeLayer, Drafter, DraftMemory, Growth, Opening, Outlook, TreeLimits
from engine.draft.lookup import PreviousDrafter, PromptDrafter
from engine.draft.model import ModelDrafter
from engine.model import Block, Transformer
from engine.policy import DynamicPolicy, GrowMap, StaticPolicy
from engine.policy.base import Position, SpareMs
from engine.protocol import StopReason
from engine.sampling import SamplingParams, choose
from engine.slot import Slot
from engine.tree import TokenTree
from tests.engine.tiny import write_llama

VOCABULARY = 24
CONTEXT = 48
LIMITS = TreeLimits(size=12, depth=5, width=3, num_beams=4)
PROMPT = (3, 9, 4, 9, 4, 7, 3, 9)
GREEDY = SamplingParams()
CHEAP = CostTable.flat(0.01)
"""Of a draft model that always pays."""
COMB = GrowMap(((1, 2, 3), (4, 5), (6,), (), (7,), (), (), ()))

Grow = Callable[[Position], TokenTree]


@cache
def tiny_model(seed: int, *, row_multiple: int = 1) -> Transformer:
    """A random model: with `row_multiple` 16 its logits are the same bits in whichever pass."""
    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder), seed=seed, scale=3.0, vocab_size=VOCABULARY, num_hidden_layers=2)
        return Transformer.load(Checkpoint.open(Path(folder)), "cpu", "fp32", row_multiple=row_multiple)


def exact_target() -> Transformer:
    """The target on the reference path."""
    return tiny_model(0, row_multiple=16)


class WaitingTransformer(Transformer):
    """`model`, whose weights it shares, as if it waited `wait_ms(layer)` for each layer to come."""

    def __init__(self, model: Transformer, wait_ms: Callable[[int], float]) -> None:
        self.__dict__.update(vars(model))
        self._wait_ms = wait_ms

    def wait_ms(self, layer: int) -> float:
        return self._wait_ms(layer)


def waiting(model: Transformer, passes: int = 3) -> WaitingTransformer:
    """One whose every layer leaves time for so many passes of a draft model that is `CHEAP`."""
    asked = 0

    def wait_ms(_layer: int) -> float:
        # Asked once before, and then after every pass: the time runs out.
        nonlocal asked
        asked += 1
        return 0.0 if asked % (passes + 2) == 0 else 10.0

    return WaitingTransformer(model, wait_ms)


def draft_model() -> Transformer:
    """Another model than the target."""
    return tiny_model(1)


@cache
def reference(
    prompt: tuple[int, ...],
    length: int,
    params: SamplingParams = GREEDY,
    allowed: Callable[[int], Sequence[int] | None] = lambda _: None,
) -> list[int]:
    """Plain decoding, said once more: every token from a fresh prefill of all that comes before it.

    `allowed` says by how many tokens there are yet which may come next.
    """
    target, text = exact_target(), list(prompt)
    while len(text) < len(prompt) + length:
        last = target.forward(Block.chain(text), target.new_cache(len(text)), [len(text) - 1], nothing)[0]
        may = allowed(len(text) - len(prompt))
        if may is not None:
            last = last.masked_fill(torch.tensor([t not in may for t in range(VOCABULARY)]), -torch.inf)
        text.append(choose(last, params, text, len(text)).token)
    return text[len(prompt) :]


def nothing(_layer: int) -> None:
    """No interruption."""


class Never:
    """A stop rule that never stops."""

    def push(self, token: int) -> StopReason | None:
        return None


class StopAt:
    """Stops with the first token of `ends`."""

    def __init__(self, *ends: int) -> None:
        self._ends = ends

    def push(self, token: int) -> StopReason | None:
        return StopReason.END if token in self._ends else None


def run(
    decoder: Decoder,
    slot: Slot | None = None,
    prompt: Sequence[int] = PROMPT,
    params: SamplingParams = GREEDY,
    *,
    stop: StopRule | None = None,
    constraint: Constraint | None = None,
    max_tokens: int = 18,
    speculative: bool = True,
    before_layer: BeforeLayer = nothing,
    branches: int = 0,
    into: list[Step] | None = None,
) -> list[Step]:
    """All steps of a generation, in a new slot unless one is given; `into` has those before a cancel."""
    steps = [] if into is None else into
    generation = decoder.generate(
        prompt,
        slot or decoder.new_slot(),
        params,
        stop or Never(),
        max_tokens=max_tokens,
        speculative=speculative,
        before_layer=before_layer,
        constraint=constraint,
        branches=branches,
    )
    steps.extend(generation)
    return steps


def tokens_of(steps: Sequence[Step]) -> list[int]:
    """What was emitted."""
    return [token for step in steps for token in step.tokens]


@dataclass(slots=True)
class ScriptedPolicy:
    """Trees that `script` makes, and a record of them: it is policy and session in one."""

    script: Grow
    most_nodes: int = LIMITS.size + 1
    trees: list[TokenTree] = field(default_factory=list[TokenTree])
    failed: Sequence[str] = ()

    def new_memories(self) -> tuple[DraftMemory, ...]:
        return ()

    def open(self, memories: Sequence[DraftMemory], opening: Opening, *, greedy: bool) -> ScriptedPolicy:
        return self

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:
        self.trees.append(self.script(position))
        assert len(self.trees[-1]) <= self.most_nodes
        return self.trees[-1]

    def grow_on(self, spare_ms: SpareMs, before_layer: BeforeLayer) -> None:
        pass

    def learn(self, emitted: Sequence[int]) -> None:
        pass


def empty(position: Position) -> TokenTree:
    """No guess at all."""
    return TokenTree.root(position.history[-1])


def full(nodes: int) -> Grow:
    """Every token at every node, level by level, until there are `nodes`, whatever room the text has left."""

    def script(position: Position) -> TokenTree:
        tree = empty(position)
        for at in range(nodes - 1):
            tree.add(at // VOCABULARY, at % VOCABULARY, 1 / VOCABULARY)
        return tree

    return script


def at_random(seed: int) -> Grow:
    """Random trees, another at every position, whatever room the text has left."""

    def script(position: Position) -> TokenTree:
        rng, tree = random.Random(f"{seed} {len(position.history)}"), empty(position)
        for _ in range(rng.randint(0, LIMITS.size)):
            tree.add(rng.randrange(len(tree)), rng.randrange(VOCABULARY), 0.5)
        return tree

    return script


def beam(width: int, depth: int) -> Grow:
    """The same number of nodes on every level, as a beam search leaves them."""

    def script(position: Position) -> TokenTree:
        rng, tree, level = random.Random(len(position.history)), empty(position), [0]
        for _ in range(depth):
            pairs = [(rng.choice(level), rng.randrange(VOCABULARY)) for _ in range(width)]
            level = sorted({tree.add(parent, token, 0.5) for parent, token in pairs})
        return tree

    return script


def oracle(truth: Sequence[int], wrong_by: int = 0, depth: int = LIMITS.depth) -> Grow:
    """The true continuation `truth`, prompt included; or never a token of it."""

    def script(position: Position) -> TokenTree:
        tree, node = empty(position), 0
        for token in truth[len(position.history) :][:depth]:
            node = tree.add(node, (token + wrong_by) % VOCABULARY, 0.9)
        return tree

    return script


class ScriptedDrafter:
    """Lets `deepen(growth, before_layer)` add guesses once a step: drafter, memory and session in one."""

    priors = ((0.5,),)

    def __init__(self, deepen: Callable[[Growth, BeforeLayer], None], name: str = "scripted") -> None:
        self.name = name
        self._deepen = deepen
        self._done = False

    def new_memory(self) -> ScriptedDrafter:
        return self

    def adopt(self, other: DraftMemory, tokens: Sequence[int]) -> None:
        pass

    def open(self, opening: Opening) -> ScriptedDrafter:
        return self

    def begin(self, history: Sequence[int]) -> None:
        self._done = False

    def uncovered(self, growth: Growth) -> float:
        return 0.0 if self._done else growth.uncovered(0)

    def cost_ms(self, growth: Growth) -> float:
        return 0.001

    def deepen(self, growth: Growth, before_layer: BeforeLayer) -> None:
        self._done = True
        self._deepen(growth, before_layer)


def everything(growth: Growth, before_layer: BeforeLayer) -> None:
    """Guesses every token everywhere, as far as the tree has room."""
    for parent in range(VOCABULARY):
        for token in range(VOCABULARY):
            if parent < len(growth.tree):
                growth.add(parent, token, 0)


def model_drafter(model: Transformer | None = None) -> ModelDrafter:
    """A draft model that always pays."""
    return ModelDrafter(model or draft_model(), CONTEXT, LIMITS.most_grown, CHEAP)


def dynamic(*drafters: Drafter) -> DynamicPolicy:
    """The policy that ships, with `drafters`."""
    return DynamicPolicy(drafters, LIMITS, CostTable.flat())


def shipped() -> DynamicPolicy:
    """The policy that ships, with every drafter that needs no workspace."""
    return dynamic(PreviousDrafter(), PromptDrafter(), model_drafter())


def static() -> StaticPolicy:
    """A grow map's trees."""
    return StaticPolicy(model_drafter(), COMB)


class Anything:
    """A constraint that constrains nothing; others derive from it what they do not say."""

    rewritten = 0

    def allowed(self) -> Sequence[int] | None:
        return None

    def outlook(self) -> Outlook:
        return Outlook()
