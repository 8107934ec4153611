"""Sampled texts come as often as the target says: chi-square against every text a tiny vocabulary allows.

A test of statistics is worth what it catches, so mistakes that engines have made are made here on purpose.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import engine.decode as decode
import engine.sampling as sampling
from engine.checkpoint import Checkpoint
from engine.decode import Decoder
from engine.model import Block, Transformer
from engine.policy.base import Position
from engine.sampling import Choice, SamplingParams, distribution
from engine.tree import TokenTree
from tests.engine.scripted import ScriptedPolicy, StopAt, empty, nothing, run, tokens_of
from tests.engine.tiny import write_llama

END, VOCABULARY = 0, 5
LENGTH = 3
PROMPT = (2, 3)
DRAWS = 500
PENALTY, TEMPERATURE = 2.5, 1.2
FEWEST = 5.0
"""Texts expected less often are counted as one."""
SIGNIFICANCE = 1e-4
Text = tuple[int, ...]


def params(seed: int = 0) -> SamplingParams:
    return SamplingParams(temperature=TEMPERATURE, repetition_penalty=PENALTY, seed=seed)


@cache
def target() -> Transformer:
    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder), seed=18, scale=1.5, vocab_size=VOCABULARY, num_hidden_layers=1)
        return Transformer.load(Checkpoint.open(Path(folder)), "cpu", "fp32")


def all_guesses(position: Position) -> TokenTree:
    """Every text of two tokens, so that a whole text is walked in one pass."""
    tree = empty(position)
    for first, second in product(range(VOCABULARY), repeat=2):
        tree.add(tree.add(0, first, 0.2), second, 0.2)
    return tree


@cache
def expected() -> dict[Text, float]:
    """The probability of every text of at most LENGTH tokens, of which END is the last or none."""
    found: dict[Text, float] = {}

    def follow(text: Text, chance: float) -> None:
        if len(text) == LENGTH or text[-1:] == (END,):
            found[text] = chance
            return
        tokens = [*PROMPT, *text]
        cache = target().new_cache(len(tokens))
        logits = target().forward(Block.chain(tokens), cache, [len(tokens) - 1], nothing)[0]
        for token, one in enumerate(distribution(logits, params(), tokens).tolist()):
            follow((*text, token), chance * one)

    follow((), 1.0)
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def chance_of(observed: Counter[Text]) -> float:
    """The probability of being at least so far off, in Pearson's chi-square, were `expected` true."""
    draws, rare_expected, rare, statistic, cells = observed.total(), 0.0, 0, 0.0, 0
    assert observed.keys() <= expected().keys()
    for text, chance in expected().items():
        if draws * chance < FEWEST:
            rare_expected += draws * chance
            rare += observed[text]
        else:
            statistic += (observed[text] - draws * chance) ** 2 / (draws * chance)
            cells += 1
    statistic += (rare - rare_expected) ** 2 / rare_expected
    # The regularised upper incomplete gamma function; `cells` degrees of freedom, for there is one cell more.
    return float(torch.special.gammaincc(torch.tensor(cells / 2.0), torch.tensor(statistic / 2)))


def drawn() -> Counter[Text]:
    """A text for each of DRAWS seeds, each in one pass."""
    policy = ScriptedPolicy(all_guesses, 1 + VOCABULARY + VOCABULARY**2)
    decoder = Decoder(target(), policy, len(PROMPT) + LENGTH + 1)
    slot = decoder.new_slot()
    texts = (
        run(decoder, slot, PROMPT, params(seed), stop=StopAt(END), max_tokens=LENGTH) for seed in range(DRAWS)
    )
    return Counter(tuple(tokens_of(steps)) for steps in texts)


def reused_uniforms(patch: pytest.MonkeyPatch) -> None:
    """One draw serves all positions."""
    uniform = sampling.uniform
    patch.setattr(sampling, "uniform", lambda seed, position: uniform(seed, len(PROMPT)))


def choosing(change: Callable[..., tuple[Tensor, SamplingParams, Sequence[int]]]):
    def mutant(patch: pytest.MonkeyPatch) -> None:
        choose = sampling.choose

        def changed(logits: Tensor, params: SamplingParams, history: Sequence[int], position: int) -> Choice:
            return choose(*change(logits, params, history, position == len(PROMPT)), position)

        patch.setattr(decode, "choose", changed)

    return mutant


def without_end(logits: Tensor) -> Tensor:
    return logits.index_fill(0, torch.tensor([END]), -torch.inf)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "reused uniforms": reused_uniforms,
    "penalty from the prefix only": choosing(
        lambda logits, params, history, first: (logits, params, history[: len(PROMPT)])
    ),
    "greedy first token": choosing(
        lambda logits, params, history, first: (
            logits,
            SamplingParams(repetition_penalty=PENALTY) if first else params,
            history,
        )
    ),
    "no end at the first position": choosing(
        lambda logits, params, history, first: (without_end(logits) if first else logits, params, history)
    ),
}


def test_texts_come_as_often_as_the_target_says():
    assert chance_of(drawn()) > SIGNIFICANCE


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_decoder_that_draws_otherwise_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    mutant(monkeypatch)
    assert chance_of(drawn()) < SIGNIFICANCE
