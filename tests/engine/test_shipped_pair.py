"""The pair that ships, on prompts from packages it was never trained on (installed by the extra ``test``)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from importlib.metadata import distribution

import pytest

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.costs import CostTable
from engine.decode import Decoder, Step
from engine.draft.base import TreeLimits
from engine.loaded import LoadedEngine
from engine.model import Block, Transformer
from engine.protocol import Segment, StopReason, StopSpec
from engine.sampling import SamplingParams
from engine.slot import Slot
from engine.speculation import TimedModel, dynamic_policy
from engine.training.prepare import CORPUS

HELD_OUT = ("structlog", "tinydb", "aiosqlite")
PROMPTS = 60
EXACT_PROMPTS = 16
"""On the reference path, where each row's attention is computed by itself."""
MAX_TOKENS = 12
NOISE = 1e-3
"""Far above what float32 passes of different shapes differ by, far below what tells two tokens apart."""


@pytest.fixture(scope="module")
def engine() -> LoadedEngine:
    return LoadedEngine.load(EngineConfig())


@pytest.fixture(scope="module")
def prompts(engine: LoadedEngine) -> list[tuple[int, ...]]:
    """Cursors at random places, a few lines before each."""
    texts: list[str] = []
    for package in HELD_OUT:
        files = distribution(package).files or []
        texts += [str(f.locate().read_text()) for f in files if f.suffix == ".py"]  # pyright: ignore[reportAttributeAccessIssue]
    rng = random.Random(7)
    built: list[tuple[int, ...]] = []
    while len(built) < PROMPTS:
        text = rng.choice(texts)
        if len(text) > 400:
            end = rng.randrange(300, len(text))
            segments = (Segment("prefix", text[end - 300 : end]), Segment("suffix", text[end : end + 100]))
            built.append(engine.prompts.code(segments, "app/module.py", "python", MAX_TOKENS).tokens)
    return built


class Never:
    def push(self, token: int) -> StopReason | None:
        return None


def steps_of(decoder: Decoder, slot: Slot, prompt: Sequence[int], *, speculative: bool) -> list[Step]:
    return list(
        decoder.generate(
            prompt,
            slot,
            SamplingParams(),
            Never(),
            max_tokens=MAX_TOKENS,
            speculative=speculative,
            before_layer=lambda _: None,
        )
    )


def text_of(decoder: Decoder, slot: Slot, prompt: Sequence[int], *, speculative: bool) -> list[int]:
    return tokens_of(steps_of(decoder, slot, prompt, speculative=speculative))


def tokens_of(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


def complete(engine: LoadedEngine, prefix: str, suffix: str = "") -> str:
    """What the engine writes after `prefix`, up to the line's end."""
    segments = (Segment("prefix", prefix), Segment("suffix", suffix))
    prompt = engine.prompts.code(segments, "app/module.py", "python", 32)
    stream = engine.text_stream(prompt.tokens, StopSpec(max_lines=1), prompt.owed)
    for _ in engine.decoder.generate(
        prompt.tokens,
        engine.decoder.new_slot(),
        SamplingParams(),
        stream,
        max_tokens=32,
        speculative=True,
        before_layer=lambda _: None,
        constraint=stream,
    ):
        pass
    return stream.finish()


def test_the_held_out_packages_are_the_pinned_ones_and_none_was_trained_on():
    pins = json.loads(CORPUS.read_text())
    held_out = {pin["package"]: pin["version"] for pin in pins["held_out"]}
    assert not held_out.keys() & {pin["package"] for pin in pins["train"]}
    assert {name: distribution(name).version for name in HELD_OUT}.items() <= held_out.items()


@pytest.mark.slow
def test_speculation_is_exact_on_the_reference_path(prompts: list[tuple[int, ...]]):
    limits = TreeLimits(size=15, depth=4, width=3, num_beams=4)
    target = Transformer.load(Checkpoint.open(find("bundled:target")), "cpu", "fp32", row_multiple=16)
    draft = Transformer.load(Checkpoint.open(find("bundled:draft")), "cpu", "fp32")
    # Times under which both drafters are asked, and whole trees verified.
    timed = TimedModel(draft, CostTable.flat(0.1))
    decoder = Decoder(target, dynamic_policy(limits, CostTable.flat(), [timed], 400), 400)
    slot, accepted = decoder.new_slot(), 0
    for prompt in prompts[:EXACT_PROMPTS]:
        fast = steps_of(decoder, slot, prompt, speculative=True)
        assert tokens_of(fast) == text_of(decoder, slot, prompt, speculative=False)
        accepted += fast[-1].counts.accepted
    assert accepted > 2 * EXACT_PROMPTS


@pytest.mark.slow
def test_as_it_ships_every_divergence_from_plain_decoding_is_a_tie_within_numeric_noise(
    engine: LoadedEngine, prompts: list[tuple[int, ...]]
):
    decoder, slot, divergences = engine.decoder, engine.decoder.new_slot(), 0
    for prompt in prompts:
        fast = text_of(decoder, slot, prompt, speculative=True)
        plain = text_of(decoder, slot, prompt, speculative=False)
        if fast == plain:
            continue
        divergences += 1
        agreed = next(i for i, (a, b) in enumerate(zip(fast, plain, strict=True)) if a != b)
        tokens = [*prompt, *fast[:agreed]]
        cache = decoder.new_slot().target
        best = (
            decoder.target.forward(Block.chain(tokens), cache, [len(tokens) - 1], lambda _: None)[0]
            .topk(2)
            .values
        )
        assert best[0] - best[1] < NOISE
    assert divergences <= PROMPTS // 20


@pytest.mark.parametrize(
    ("prefix", "suffix", "line"),
    [
        ("class Account:\n    def __init__(self, name):\n        self.name = ", "", "name"),
        (
            (
                "class Account:\n    def __init__(self, owner, balance):\n        self.owner = owner\n"
                "        self.bal"
            ),
            "",
            "ance = balance",
        ),
        (
            (
                "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
                "    def push(self, item):\n        self.items.app"
            ),
            "",
            "end(item)",
        ),
        ("def mean(values):\n    return sum(values) / len(", "", "values)"),
        ("import", "", "sys"),
        ("if __name__ == ", "", "'__main__':"),
        ("def double(value):\n    result = value * 2\n    return ", "", "result"),
    ],
)
def test_the_pair_continues_simple_code(prefix: str, suffix: str, line: str, engine: LoadedEngine):
    assert complete(engine, prefix, suffix).strip() == line
