"""Speculation changes how fast text comes, never which text."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import Checkpoint
from engine.decode import Decoder, Slot, Step
from engine.draft import Drafter, DraftSession, ModelDrafter, NgramDrafter, TreeLimits
from engine.jobs import Cancelled
from engine.kv_cache import KVCache
from engine.model import Block, Transformer
from engine.protocol import StopReason
from engine.sampling import SamplingParams, distribution
from engine.tree import TokenTree
from tests.engine.tiny import write_llama

VOCABULARY = 24
CONTEXT = 48
LIMITS = TreeLimits(size=12, depth=5, width=3, num_beams=4)
PROMPT = [3, 9, 4, 9, 4, 7, 3, 9]
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=1.3, top_p=0.95, seed=5)
PENALISED = SamplingParams(repetition_penalty=1.4)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder: Path = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("target", "draft")):
        write_llama(folder / name, seed=seed, scale=3.0, vocab_size=VOCABULARY, num_hidden_layers=2)
    return {name: Checkpoint.open(folder / name) for name in ("target", "draft")}


@pytest.fixture(scope="module")
def target(checkpoints: dict[str, Checkpoint]) -> Transformer:
    return Transformer.load(checkpoints["target"], "cpu", "fp32", row_multiple=16)


@pytest.fixture(scope="module")
def fast_target(checkpoints: dict[str, Checkpoint]) -> Transformer:
    """The path that ships: its logits differ in the last bits from pass to pass, as a draw does not."""
    return Transformer.load(checkpoints["target"], "cpu", "fp32")


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


class Scripted:
    """A drafter that grows what `guess(history, tree, limits)` says."""

    name = "scripted"

    def __init__(self, guess: Callable[[Sequence[int], TokenTree, TreeLimits], None]) -> None:
        self._guess = guess

    def new_cache(self) -> KVCache | None:
        return None

    def open(self, cache: KVCache | None) -> DraftSession:
        return self

    def grow(
        self,
        tree: TokenTree,
        history: Sequence[int],
        limits: TreeLimits,
        before_layer: Callable[[int], None],
    ) -> None:
        self._guess(history, tree, limits)


def oracle(truth: Sequence[int], wrong_by: int = 0) -> Scripted:
    """Drafts the true continuation, or never a token of it."""

    def guess(history: Sequence[int], tree: TokenTree, limits: TreeLimits) -> None:
        node = 0
        for token in truth[len(history) : len(history) + limits.depth]:
            node = tree.add(node, (token + wrong_by) % VOCABULARY, 0.9)

    return Scripted(guess)


def random_trees(history: Sequence[int], tree: TokenTree, limits: TreeLimits) -> None:
    generator = torch.Generator().manual_seed(len(history))
    for _ in range(20):
        parent = int(torch.randint(len(tree), (), generator=generator))
        if tree.depths[parent] < limits.depth:
            tree.add(parent, int(torch.randint(VOCABULARY, (), generator=generator)), 0.5)


def full_width(history: Sequence[int], tree: TokenTree, limits: TreeLimits) -> None:
    for token in range(VOCABULARY if limits.depth else 0):
        tree.add(0, token, 1 / VOCABULARY)


def run(
    decoder: Decoder,
    slot: Slot,
    prompt: Sequence[int] = PROMPT,
    params: SamplingParams = GREEDY,
    stop: Never | StopAt | None = None,
    max_tokens: int = 18,
    speculative: bool = True,
    before_layer: Callable[[int], None] = lambda _: None,
) -> list[Step]:
    return list(
        decoder.generate(
            prompt,
            slot,
            params,
            stop or Never(),
            max_tokens=max_tokens,
            speculative=speculative,
            before_layer=before_layer,
        )
    )


def tokens_of(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


def plain(target: Transformer, params: SamplingParams = GREEDY, prompt: Sequence[int] = PROMPT) -> list[int]:
    decoder = Decoder(target, [], LIMITS, CONTEXT)
    return tokens_of(run(decoder, decoder.new_slot(), prompt, params))


class Narrow:
    """Allows a few tokens for a while; as a stop rule it only counts."""

    def __init__(self, until: int) -> None:
        self.pushed = 0
        self.until = until

    def push(self, token: int) -> StopReason | None:
        assert self.allowed() is None or token in (self.allowed() or ())
        self.pushed += 1
        return None

    rewritten = 0

    def allowed(self) -> tuple[int, ...] | None:
        return (self.pushed + 5, self.pushed + 9, 23) if self.pushed < self.until else None


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("until", [1, 3])
def test_under_a_constraint_text_is_what_plain_decoding_under_it_gives(
    until: int, params: SamplingParams, target: Transformer, checkpoints: dict[str, Checkpoint]
):
    draft = Transformer.load(checkpoints["draft"], "cpu", "fp32")
    drafters = [NgramDrafter(), ModelDrafter(draft, CONTEXT, LIMITS), Scripted(full_width)]
    texts: list[list[int]] = []
    for speculative in (False, True):
        decoder, narrow = Decoder(target, drafters, LIMITS, CONTEXT), Narrow(until)
        steps = decoder.generate(
            PROMPT,
            decoder.new_slot(),
            params,
            narrow,
            max_tokens=18,
            speculative=speculative,
            before_layer=lambda _: None,
            constraint=narrow,
        )
        texts.append(tokens_of(list(steps)))
    assert texts[0] == texts[1]
    assert texts[0] != plain(target, params)


class Rewriting(Never):
    """Says that the first tokens only wrote again what was there."""

    def __init__(self, of: int) -> None:
        self.pushed = 0
        self.of = of

    def push(self, token: int) -> StopReason | None:
        self.pushed += 1
        return None

    def allowed(self) -> None:
        return None

    @property
    def rewritten(self) -> int:
        return min(self.pushed, self.of)


@pytest.mark.parametrize("speculative", [False, True])
def test_tokens_that_write_a_word_again_are_not_among_those_asked_for(speculative: bool, target: Transformer):
    rewriting = Rewriting(3)
    decoder = Decoder(target, [NgramDrafter()], LIMITS, CONTEXT)
    *_, last = steps = list(
        decoder.generate(
            PROMPT,
            decoder.new_slot(),
            GREEDY,
            rewriting,
            max_tokens=5,
            speculative=speculative,
            before_layer=lambda _: None,
            constraint=rewriting,
        )
    )
    assert len(tokens_of(steps)) == 8
    assert last.counts.generated == 5
    resumed = decoder.generate(
        [*PROMPT, *tokens_of(steps)],
        decoder.new_slot(),
        GREEDY,
        rewriting,
        max_tokens=2,
        speculative=speculative,
        before_layer=lambda _: None,
        constraint=rewriting,
    )
    assert len(tokens_of(list(resumed))) == 2


def test_drafters_propose_only_what_may_follow_the_root(
    target: Transformer, checkpoints: dict[str, Checkpoint]
):
    model = Transformer.load(checkpoints["draft"], "cpu", "fp32")
    limits = replace(LIMITS, allowed=(3, 4, 5))
    for drafter in (NgramDrafter(), ModelDrafter(model, CONTEXT, LIMITS)):
        tree = TokenTree.root(7)
        drafter.open(drafter.new_cache()).grow(tree, [8, 7, 3, 8, 7, 9, 8, 7], limits, lambda _: None)
        first = {tree.tokens[node] for node in range(1, len(tree)) if tree.parents[node] == 0}
        assert first
        assert first <= {3, 4, 5}


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("kind", ["model", "itself", "ngram", "random", "full", "perfect", "wrong", "both"])
def test_text_is_what_plain_decoding_gives(
    kind: str, params: SamplingParams, target: Transformer, checkpoints: dict[str, Checkpoint]
):
    expected = plain(target, params)
    draft = Transformer.load(checkpoints["draft"], "cpu", "fp32")
    drafters: dict[str, list[Drafter]] = {
        "model": [ModelDrafter(draft, CONTEXT, LIMITS)],
        "itself": [ModelDrafter(target, CONTEXT, LIMITS)],
        "ngram": [NgramDrafter()],
        "random": [Scripted(random_trees)],
        "full": [Scripted(full_width)],
        "perfect": [oracle(PROMPT + expected)],
        "wrong": [oracle(PROMPT + expected, wrong_by=1)],
        "both": [NgramDrafter(), ModelDrafter(draft, CONTEXT, LIMITS)],
    }
    decoder = Decoder(target, drafters[kind], LIMITS, CONTEXT)
    steps = run(decoder, decoder.new_slot(), params=params)
    assert tokens_of(steps) == expected
    counts = steps[-1].counts
    assert counts.generated == len(expected) == 18
    if kind == "perfect":
        assert counts.target_passes == len(expected) / (LIMITS.depth + 1)
    if kind == "wrong":
        assert counts.accepted == 0


def test_greedy_decoding_equals_transformers(target: Transformer, tmp_path: Path):
    reference = write_llama(tmp_path, seed=0, scale=3.0, vocab_size=VOCABULARY, num_hidden_layers=2)
    generated = reference.generate(  # pyright: ignore[reportAttributeAccessIssue]
        torch.tensor([PROMPT]), max_new_tokens=18, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert plain(target) == generated[0, len(PROMPT) :].tolist()


def test_the_first_tree_is_verified_in_the_prefill_pass(target: Transformer):
    truth = PROMPT + plain(target)
    decoder = Decoder(target, [oracle(truth)], LIMITS, CONTEXT)
    first = run(decoder, decoder.new_slot(), max_tokens=6)[0]
    assert first.counts.target_passes == 1
    assert len(first.tokens) == 6


def test_a_long_prompt_is_read_in_passes_of_bounded_size_by_target_and_draft_alike(
    target: Transformer, checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
):
    prompt = PROMPT * 3
    expected = plain(target, prompt=prompt)
    sizes: list[int] = []
    forward = Transformer.forward

    def measured(self: Transformer, block: Block, *rest: Any) -> torch.Tensor:
        sizes.append(len(block))
        return forward(self, block, *rest)

    monkeypatch.setattr("engine.prefill.PREFILL_ROWS", 8)
    monkeypatch.setattr(Transformer, "forward", measured)
    draft = ModelDrafter(Transformer.load(checkpoints["draft"], "cpu", "fp32"), CONTEXT, LIMITS)
    decoder = Decoder(target, [draft], LIMITS, CONTEXT)
    steps = run(decoder, decoder.new_slot(), prompt=prompt)
    assert tokens_of(steps) == expected
    assert max(sizes) <= max(8 + LIMITS.size, LIMITS.num_beams * LIMITS.depth)
    assert steps[0].counts.target_passes == 3


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 7])
def test_exactly_as_many_tokens_come_as_were_asked_for(max_tokens: int, target: Transformer):
    truth = PROMPT + plain(target)
    decoder = Decoder(target, [oracle(truth)], LIMITS, CONTEXT)
    steps = run(decoder, decoder.new_slot(), max_tokens=max_tokens)
    assert tokens_of(steps) == truth[len(PROMPT) :][:max_tokens]
    assert steps[-1].stop is StopReason.LENGTH


def test_generation_ends_where_the_context_does(target: Transformer):
    decoder = Decoder(target, [Scripted(full_width)], LIMITS, CONTEXT)
    steps = run(decoder, decoder.new_slot(), max_tokens=1000)
    assert len(tokens_of(steps)) == CONTEXT - len(PROMPT)
    assert steps[-1].stop is StopReason.LENGTH


@pytest.mark.parametrize("size", [0, CONTEXT, CONTEXT + 1])
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused(size: int, target: Transformer):
    decoder = Decoder(target, [], LIMITS, CONTEXT)
    with pytest.raises(ValueError, match="does not fit"):
        run(decoder, decoder.new_slot(), prompt=[1] * size)


@pytest.mark.parametrize("at", [0, 1, 8])
def test_an_end_token_inside_an_accepted_path_ends_the_text_there(at: int, target: Transformer):
    expected = plain(target)
    end = expected[at]
    decoder = Decoder(target, [oracle(PROMPT + expected)], LIMITS, CONTEXT)
    steps = run(decoder, decoder.new_slot(), stop=StopAt(end))
    assert tokens_of(steps) == expected[: expected.index(end) + 1]
    assert steps[-1].stop is StopReason.END


def test_a_second_request_recomputes_only_what_is_new_and_says_the_same(target: Transformer):
    decoder = Decoder(target, [NgramDrafter()], LIMITS, CONTEXT)
    slot = decoder.new_slot()
    first = tokens_of(run(decoder, slot, max_tokens=10))
    grown = PROMPT + first[:4]
    warm = run(decoder, slot, prompt=grown, max_tokens=12)
    cold = run(decoder, decoder.new_slot(), prompt=grown, max_tokens=12)
    assert warm[0].counts.reused == len(grown) - 1
    assert cold[0].counts.reused == 0
    assert tokens_of(warm) == tokens_of(cold)
    assert [s.logprobs for s in warm] == [s.logprobs for s in cold]


def test_a_diverging_request_keeps_the_common_prefix(target: Transformer):
    decoder = Decoder(target, [], LIMITS, CONTEXT)
    slot = decoder.new_slot()
    run(decoder, slot, max_tokens=5)
    other = [*PROMPT[:5], 20, 21]
    steps = run(decoder, slot, prompt=other, max_tokens=8)
    assert steps[0].counts.reused == 5
    assert tokens_of(steps) == plain(target, prompt=other)[:8]


def test_a_cancel_at_any_layer_starts_no_further_one_and_leaves_the_slot_right(
    target: Transformer, checkpoints: dict[str, Checkpoint]
):
    draft = ModelDrafter(Transformer.load(checkpoints["draft"], "cpu", "fp32"), CONTEXT, LIMITS)
    decoder = Decoder(target, [draft], LIMITS, CONTEXT)
    layers = 0

    def count(_: int) -> None:
        nonlocal layers
        layers += 1

    cold = tokens_of(run(decoder, decoder.new_slot(), max_tokens=5, before_layer=count))
    for last in range(0, layers, 7):
        started = 0

        def cancel(_: int, last: int = last) -> None:
            nonlocal started
            if started == last:
                raise Cancelled
            started += 1

        slot = decoder.new_slot()
        with pytest.raises(Cancelled):
            run(decoder, slot, max_tokens=5, before_layer=cancel)
        assert started == last
        assert tokens_of(run(decoder, slot, max_tokens=5)) == cold


def test_an_abandoned_generation_leaves_the_slot_right(target: Transformer):
    decoder = Decoder(target, [Scripted(random_trees)], LIMITS, CONTEXT)
    expected = tokens_of(run(decoder, decoder.new_slot(), max_tokens=8))
    slot = decoder.new_slot()
    abandoned = decoder.generate(
        PROMPT, slot, GREEDY, Never(), max_tokens=8, speculative=True, before_layer=lambda _: None
    )
    next(abandoned)
    abandoned.close()
    assert tokens_of(run(decoder, slot, max_tokens=8)) == expected


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_generation_that_resumes_with_what_it_had_emitted_goes_on_alike(
    params: SamplingParams, target: Transformer
):
    decoder = Decoder(target, [NgramDrafter()], LIMITS, CONTEXT)
    slot = decoder.new_slot()
    whole = tokens_of(run(decoder, decoder.new_slot(), params=params, max_tokens=12))
    resumed = run(decoder, slot, prompt=PROMPT + whole[:5], params=params, max_tokens=7)
    assert whole[:5] + tokens_of(resumed) == whole


def test_sampled_text_follows_the_models_own_distribution(fast_target: Transformer):
    """Chi-square of two-token texts over seeds, speculation on, against the enumerated probabilities."""
    params = SamplingParams(temperature=1.0, top_k=3)
    decoder = Decoder(fast_target, [Scripted(full_width)], LIMITS, CONTEXT)
    slot, draws = decoder.new_slot(), 500

    def probabilities(prompt: list[int]) -> dict[int, float]:
        captured = decoder.new_slot()
        logits, _ = decoder._verify(TokenTree.root(prompt[-1]), prompt, captured.target, lambda _: None)
        kept = distribution(logits[0], params, prompt)
        return {int(t): float(kept[t]) for t in kept.nonzero().flatten()}

    expected = {
        (a, b): p * q
        for a, p in probabilities(PROMPT).items()
        for b, q in probabilities([*PROMPT, a]).items()
    }
    counts = dict.fromkeys(expected, 0)
    for seed in range(draws):
        seeded = SamplingParams(temperature=1.0, top_k=3, seed=seed)
        a, b = tokens_of(run(decoder, slot, params=seeded, max_tokens=2))
        counts[a, b] += 1
    statistic = sum((counts[k] - draws * p) ** 2 / (draws * p) for k, p in expected.items())
    assert statistic < 26.1  # 8 degrees of freedom, p = 0.001
