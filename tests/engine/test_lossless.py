"""Speculation changes how fast text comes, never which text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decode import Decoder, Step
from engine.jobs import Cancelled
from engine.kv_cache import KVCache
from engine.model import Block, Transformer
from engine.policy import PlainPolicy, TreePolicy
from engine.protocol import StopReason
from engine.sampling import SamplingParams
from engine.slot import Slot
from tests.engine.scripted import (
    CONTEXT,
    GREEDY,
    LIMITS,
    PROMPT,
    VOCABULARY,
    ScriptedDrafter,
    ScriptedPolicy,
    StopAt,
    at_random,
    beam,
    dynamic,
    empty,
    everything,
    exact_target,
    full,
    model_drafter,
    nothing,
    oracle,
    reference,
    run,
    shipped,
    static,
    tiny_model,
    tokens_of,
    waiting,
)
from tests.engine.tiny import write_llama

SAMPLED = SamplingParams(temperature=1.3, top_k=12, top_p=0.95, min_p=0.02, seed=5)
PARAMS = {
    "greedy": GREEDY,
    "penalised": SamplingParams(
        repetition_penalty=1.4, presence_penalty=0.7, frequency_penalty=0.4, answer_at=len(PROMPT)
    ),
    "biased": SamplingParams(logit_bias=((4, -float("inf")), (11, 2.5), (17, -3.0))),
    "sampled": SAMPLED,
    "all": replace(
        SAMPLED,
        repetition_penalty=1.2,
        presence_penalty=-0.5,
        frequency_penalty=1.1,
        answer_at=len(PROMPT),
        logit_bias=((9, -2.0), (20, 1.5)),
        seed=6,
    ),
}
POLICIES: dict[str, Callable[[], TreePolicy]] = {
    "plain": PlainPolicy,
    "empty": lambda: ScriptedPolicy(empty),
    "full": lambda: ScriptedPolicy(full(40), 40),
    "random": lambda: ScriptedPolicy(at_random(3)),
    "beam": lambda: ScriptedPolicy(beam(4, 3)),
    "static": static,
    "shipped": shipped,
    "itself": lambda: dynamic(model_drafter(exact_target())),
    "ahead": shipped,
    "everything": lambda: dynamic(ScriptedDrafter(everything), model_drafter()),
}
SHOWN = ("shipped", "ahead", "static", "random")
"""Policies enough where a test does not turn on what the tree is like."""
CANCELLED_TEXT = 5
"""Tokens asked for where every layer is tried."""


def decoder_of(policy: TreePolicy) -> Decoder:
    return Decoder(exact_target(), policy, CONTEXT)


def decoder_for(kind: str) -> Decoder:
    """A decoder with the policy of that name; "ahead" has time to draft while its target waits for layers."""
    decoder = decoder_of(POLICIES[kind]())
    return Decoder(waiting(decoder.target), decoder.policy, CONTEXT) if kind == "ahead" else decoder


def rows_of(cache: KVCache) -> torch.Tensor:
    """The valid keys and values [layers, 2, kv_heads, length, head_dim]."""
    return cache._stores[0][:, :, :, : cache.length]


def assert_fresh(cache: KVCache, model: Transformer) -> None:
    """What `cache` holds is what one prefill of its tokens gives: the same bits."""
    fresh = model.new_cache(cache.length)
    model.forward(Block.chain(cache.tokens), fresh, [], nothing)
    fresh.keep(range(cache.length), cache.tokens)
    assert torch.equal(rows_of(cache), rows_of(fresh))


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("kind", POLICIES)
def test_whatever_the_trees_text_is_what_plain_decoding_gives(kind: str, params: SamplingParams):
    steps = run(decoder_for(kind), params=params)
    assert tokens_of(steps) == reference(PROMPT, 18, params)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("wrong_by", [0, 1])
def test_true_guesses_are_all_accepted_and_false_ones_never(wrong_by: int, params: SamplingParams):
    expected = reference(PROMPT, 18, params)
    steps = run(decoder_of(ScriptedPolicy(oracle([*PROMPT, *expected], wrong_by))), params=params)
    assert tokens_of(steps) == expected
    counts = steps[-1].counts
    assert counts.target_passes == (18 if wrong_by else 18 / (LIMITS.depth + 1))
    assert counts.accepted == (0 if wrong_by else 18 - counts.target_passes)


@given(
    params=st.builds(
        SamplingParams,
        temperature=st.just(0.0) | st.floats(0.2, 3.0),
        top_k=st.integers(0, VOCABULARY),
        top_p=st.floats(0.3, 1.0),
        min_p=st.floats(0.0, 0.3),
        repetition_penalty=st.floats(0.7, 2.0),
        presence_penalty=st.floats(-2.0, 2.0),
        frequency_penalty=st.floats(-2.0, 2.0),
        answer_at=st.integers(0, 8),
        logit_bias=st.dictionaries(
            st.integers(0, VOCABULARY - 1), st.floats(-5.0, 5.0) | st.just(-float("inf")), max_size=3
        ).map(lambda biases: tuple(biases.items())),
        seed=st.integers(0, 2**32 - 1),
    ),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8).map(tuple),
    trees=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_random_trees_change_no_text_with_any_parameters(
    params: SamplingParams, prompt: tuple[int, ...], trees: int
):
    decoder = decoder_of(ScriptedPolicy(at_random(trees)))
    slot = decoder.new_slot()
    assert tokens_of(run(decoder, slot, prompt, params, max_tokens=8)) == reference(prompt, 8, params)
    assert_fresh(slot.target, exact_target())


def test_greedy_decoding_equals_transformers(tmp_path: Path):
    model = write_llama(tmp_path, seed=0, scale=3.0, vocab_size=VOCABULARY, num_hidden_layers=2)
    generated = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        torch.tensor([PROMPT]), max_new_tokens=18, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert reference(PROMPT, 18) == generated[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("at", [0, 1, 8])
def test_an_end_token_inside_an_accepted_path_ends_the_text_there(at: int):
    expected = reference(PROMPT, 18)
    end = expected[at]
    policy = ScriptedPolicy(oracle([*PROMPT, *expected]))
    steps = run(decoder_of(policy), stop=StopAt(end))
    assert tokens_of(steps) == expected[: expected.index(end) + 1]
    assert steps[-1].stop is StopReason.END


@pytest.mark.parametrize("prompt_size", [1, CONTEXT - 2, CONTEXT - 1])
@pytest.mark.parametrize("kind", ["full", *SHOWN])
def test_text_ends_where_the_context_does_and_is_the_same_up_to_there(kind: str, prompt_size: int):
    prompt = (PROMPT * 6)[:prompt_size]
    steps = run(decoder_for(kind), prompt=prompt, max_tokens=1000)
    assert tokens_of(steps) == reference(prompt, CONTEXT - prompt_size)
    assert steps[-1].stop is StopReason.LENGTH


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", SHOWN)
def test_a_warm_slot_says_the_same_as_a_cold_one(kind: str, params: SamplingParams):
    """Typed along, gone back, gone another way, and with nothing in common."""
    decoder = decoder_for(kind)
    slot = decoder.new_slot()
    first = tokens_of(run(decoder, slot, params=params, max_tokens=10))
    for prompt, reused in (
        ((*PROMPT, *first[:4]), len(PROMPT) + 3),
        (PROMPT, len(PROMPT) - 1),
        ((*PROMPT[:5], 20, 21), 5),
        ((1, *PROMPT), 0),
    ):
        warm = run(decoder, slot, prompt, params, max_tokens=8)
        assert warm[0].counts.reused == reused
        assert tokens_of(warm) == reference(prompt, 8, params)
        assert_fresh(slot.target, exact_target())


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_generation_that_goes_on_in_another_slot_says_the_same(params: SamplingParams):
    """Of a paused one, say, whose slot was taken: it adopts what another slot holds."""
    decoder = decoder_of(shipped())
    paused, other = decoder.new_slot(), decoder.new_slot()
    expected = reference(PROMPT, 18, params)
    run(decoder, paused, params=params, max_tokens=6)
    held = list(paused.target.tokens)
    prompt = (*PROMPT, *expected[:6])
    other.adopt(paused, prompt)
    resumed = run(decoder, other, prompt, params, max_tokens=12)
    assert resumed[0].counts.reused == len(held)
    assert tokens_of(resumed) == expected[6:]
    assert paused.target.tokens == held
    assert_fresh(paused.target, exact_target())
    assert_fresh(other.target, exact_target())


def interrupted(decoder: Decoder, slot: Slot, params: SamplingParams, after: int) -> list[Step] | None:
    """The steps of a generation that is cancelled after `after` layers; None if it has no more of them."""
    begun, steps = 0, list[Step]()

    def cancel(_layer: int) -> None:
        nonlocal begun
        begun += 1
        if begun == after + 1:  # Once: what swallows it goes on.
            raise Cancelled

    try:
        run(decoder, slot, params=params, max_tokens=CANCELLED_TEXT, before_layer=cancel, into=steps)
    except Cancelled:
        assert begun == after + 1
        return steps
    assert begun <= after
    return None


@pytest.mark.parametrize(
    ("kind", "params"), [("shipped", SAMPLED), ("ahead", GREEDY), ("static", GREEDY), ("random", GREEDY)]
)
def test_a_cancel_at_any_layer_starts_no_further_one_and_the_text_goes_on_as_if_none_had_been(
    kind: str, params: SamplingParams
):
    after = 0
    while True:
        decoder = decoder_for(kind)
        slot = decoder.new_slot()
        steps = interrupted(decoder, slot, params, after)
        if steps is None:
            break
        assert slot.target.tokens == [*PROMPT, *tokens_of(steps)][: slot.target.length]
        said = tokens_of(steps)
        resumed = run(decoder, slot, (*PROMPT, *said), params, max_tokens=CANCELLED_TEXT - len(said))
        assert said + tokens_of(resumed) == reference(PROMPT, 18, params)[:CANCELLED_TEXT]
        assert_fresh(slot.target, exact_target())
        after += 1
    assert after > 2 * exact_target().num_layers


def test_an_abandoned_generation_leaves_the_slot_right():
    decoder = decoder_of(shipped())
    slot = decoder.new_slot()
    abandoned = decoder.generate(
        PROMPT, slot, GREEDY, StopAt(), max_tokens=8, speculative=True, before_layer=nothing
    )
    next(abandoned)
    abandoned.close()
    assert_fresh(slot.target, exact_target())
    assert tokens_of(run(decoder, slot)) == reference(PROMPT, 18)


def test_a_drafts_cache_too_holds_what_a_fresh_prefill_gives():
    draft = tiny_model(1, row_multiple=16)
    decoder = decoder_of(dynamic(model_drafter(draft)))
    slot = decoder.new_slot()
    for prompt in (PROMPT, (*PROMPT[:5], 20, 21)):
        run(decoder, slot, prompt)
        (memory,) = slot.drafts
        assert memory.cache.length > len(prompt)  # pyright: ignore[reportAttributeAccessIssue]
        assert_fresh(memory.cache, draft)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("kind", ["full", *SHOWN])
def test_a_branch_is_what_plain_decoding_says_after_its_first_token(kind: str, params: SamplingParams):
    steps = run(decoder_for(kind), params=params, max_tokens=8, branches=3)
    text = tokens_of(steps)
    assert text == reference(PROMPT, 18, params)[:8]
    for step in steps:
        assert len(step.branches) <= 3
        scores = [branch.score for branch in step.branches]
        assert scores == sorted(scores, reverse=True)
        for branch in step.branches:
            before = (*PROMPT, *text[: branch.at], branch.tokens[0])
            assert branch.tokens[0] != text[branch.at]
            greedy = replace(params, temperature=0.0)
            assert list(branch.tokens[1:]) == reference(before, len(branch.tokens) - 1, greedy)
    assert any(step.branches for step in steps)


def test_the_likeliest_branches_are_reported_wherever_they_leave_the_text():
    """Of a tree with every token at the root, and at its first child."""
    nodes = 1 + 2 * VOCABULARY
    few, all_ = (
        run(decoder_of(ScriptedPolicy(full(nodes), nodes)), max_tokens=2, branches=most) for most in (4, 1000)
    )
    branches = all_[0].branches
    offsets = [branch.at for branch in branches]
    assert offsets.count(0) == VOCABULARY - 1
    assert few[0].branches == branches[:4]
    target = exact_target()
    for branch in branches[:4]:
        tokens = [*PROMPT, *tokens_of(all_)[: branch.at], *branch.tokens]
        rows = range(len(tokens) - len(branch.tokens) - 1, len(tokens) - 1)
        logits = target.forward(Block.chain(tokens), target.new_cache(len(tokens)), rows, nothing)
        own = logits.log_softmax(-1)
        assert branch.logprobs == pytest.approx(
            [float(own[row, token]) for row, token in enumerate(branch.tokens)], abs=1e-5
        )


def test_a_token_that_is_ruled_out_begins_no_branch():
    barred = tuple((token, -float("inf") if token % 4 else -100.0) for token in range(0, VOCABULARY, 2))
    params = SamplingParams(logit_bias=barred)
    (step, *_) = run(decoder_of(ScriptedPolicy(full(40), 40)), params=params, max_tokens=3, branches=1000)
    assert {branch.tokens[0] % 2 for branch in step.branches} == {1}
    assert all(token % 2 for branch in step.branches for token in branch.tokens)


def test_a_request_inside_anothers_layers_disturbs_neither():
    """In a slot of its own; the models and all that drafters learn are shared."""
    decoder = decoder_of(shipped())
    other = (*PROMPT[:5], 20, 21)
    inside = list[list[int]]()

    def give_way(_layer: int) -> None:
        if len(inside) < 4:
            inside.append(tokens_of(run(decoder, prompt=other, max_tokens=3)))

    outside = run(decoder, before_layer=give_way)
    assert tokens_of(outside) == reference(PROMPT, 18)
    assert inside == [reference(other, 18)[:3]] * 4
