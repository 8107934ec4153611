import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.sampling import SamplingParams, choose, distribution, only, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -5.0])


def frequencies(params: SamplingParams, draws: int = 2000) -> list[float]:
    counts = [0] * len(LOGITS)
    for position in range(draws):
        counts[choose(LOGITS, params, [], position).token] += 1
    return [count / draws for count in counts]


def test_temperature_zero_takes_the_most_probable_token():
    assert choose(LOGITS, SamplingParams(), [], 5).token == 0


def test_a_draw_depends_on_seed_and_position_alone():
    params = SamplingParams(temperature=1.0, seed=11)
    tokens = [choose(LOGITS, params, [], position).token for position in range(50)]
    assert tokens == [choose(LOGITS, params, [1, 2], position).token for position in range(50)]
    other = SamplingParams(temperature=1.0, seed=12)
    assert tokens != [choose(LOGITS, other, [], position).token for position in range(50)]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_uniform_draws_lie_in_the_half_open_unit_interval(seed: int, position: int):
    assert 0.0 <= uniform(seed, position) < 1.0


def test_draws_follow_the_distribution():
    expected = torch.softmax(LOGITS, -1)
    drawn = frequencies(SamplingParams(temperature=1.0, seed=3))
    statistic = sum(2000 * (d - float(e)) ** 2 / float(e) for d, e in zip(drawn, expected, strict=True))
    assert statistic < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def by_hand(logits: Sequence[float], params: SamplingParams, history: Sequence[int]) -> list[float]:
    """`distribution`, said once more without tensors."""
    biased = [value + dict(params.logit_bias).get(token, 0.0) for token, value in enumerate(logits)]
    for token in set(history):
        penalty = params.repetition_penalty
        biased[token] = biased[token] / penalty if biased[token] > 0 else biased[token] * penalty
    for token in history[params.answer_at :]:
        biased[token] -= params.frequency_penalty
    for token in set(history[params.answer_at :]):
        biased[token] -= params.presence_penalty
    weights = [math.exp((value - max(biased)) / params.temperature) for value in biased]
    chances = [weight / sum(weights) for weight in weights]
    ranked = sorted(range(len(chances)), key=lambda token: -chances[token])
    kept, before = ranked[:1], chances[ranked[0]]
    for rank, token in enumerate(ranked[1:], 1):
        within_k = not params.top_k or rank < params.top_k
        if within_k and before < params.top_p and chances[token] >= params.min_p * chances[ranked[0]]:
            kept.append(token)
        before += chances[token]
    mass = sum(chances[token] for token in kept)
    return [chance / mass if token in kept else 0.0 for token, chance in enumerate(chances)]


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=8),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.3, 0.7, 1.0, 2.0]),
        top_k=st.integers(0, 9),
        # No chances of whole numbers' logits add up to these, which would be decided by the last bit.
        top_p=st.sampled_from([0.0, 0.21, 0.53, 0.87, 1.0]),
        min_p=st.sampled_from([0.0, 0.017, 0.31]),
        repetition_penalty=st.sampled_from([0.7, 1.0, 1.9]),
        presence_penalty=st.sampled_from([0.0, -1.1, 1.7]),
        frequency_penalty=st.sampled_from([0.0, -0.3, 0.9]),
        answer_at=st.integers(0, 4),
    ),
    st.lists(st.integers(0, 7), min_size=1, max_size=4),
    st.dictionaries(st.integers(0, 7), st.integers(-4, 4) | st.just(-math.inf), max_size=3),
)
def test_filters_penalties_and_bias_are_what_they_are_by_hand(
    logits: list[int], params: SamplingParams, history: list[int], biases: dict[int, float]
):
    size = len(logits)
    biases = {token: bias for token, bias in biases.items() if token < size}
    assume(size > sum(bias == -math.inf for bias in biases.values()))
    params = replace(params, logit_bias=tuple(biases.items()))
    history = [token % size for token in history]
    found = distribution(torch.tensor(logits, dtype=torch.float32), params, history)
    assert found.tolist() == pytest.approx(by_hand(logits, params, history), abs=1e-9)


def test_top_p_keeps_the_token_that_crosses_the_threshold_and_always_one():
    probabilities = torch.softmax(LOGITS, -1)
    crossing = float(probabilities[0]) + 0.01
    two = distribution(LOGITS, SamplingParams(temperature=1.0, top_p=crossing), [])
    assert two.nonzero().flatten().tolist() == [0, 1]
    one = distribution(LOGITS, SamplingParams(temperature=1.0, top_p=0.0), [])
    assert one.nonzero().flatten().tolist() == [0]


def test_bias_and_penalties_move_the_most_probable_token_too():
    assert choose(LOGITS, SamplingParams(presence_penalty=1.5), [0], 0).token == 1
    assert choose(LOGITS, SamplingParams(presence_penalty=1.5, answer_at=1), [0], 0).token == 0
    assert choose(LOGITS, SamplingParams(presence_penalty=0.6), [0, 0], 0).token == 0
    assert choose(LOGITS, SamplingParams(frequency_penalty=0.6), [0], 0).token == 0
    assert choose(LOGITS, SamplingParams(frequency_penalty=0.6), [0, 0], 0).token == 1
    assert choose(LOGITS, SamplingParams(repetition_penalty=3.0), [0], 0).token == 1
    assert SamplingParams(frequency_penalty=0.6).minds_history, "so branches are told of it"
    assert choose(LOGITS, SamplingParams(logit_bias=((3, 3.5),)), [], 0).token == 3
    assert choose(LOGITS, SamplingParams(logit_bias=((0, -math.inf), (1, -1.5))), [], 0).token == 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_all_that_may_come_is_ruled_out_one_of_it_comes_all_the_same(temperature: float):
    params = SamplingParams(temperature=temperature, logit_bias=((2, -math.inf), (3, -math.inf)))
    choice = choose(only(LOGITS, [2, 3]), params, [], 0)
    assert choice.token in (2, 3)
    assert math.isfinite(choice.logprob)


def test_the_most_probable_tokens_are_the_targets_own_and_none_that_may_not_come():
    params = SamplingParams(
        temperature=2.0, presence_penalty=9.0, logit_bias=((1, -math.inf),), top_logprobs=3
    )
    own = torch.log_softmax(LOGITS, -1).tolist()
    tops = choose(LOGITS, params, [0], 0).tops
    assert [token for token, _ in tops] == [0, 1, 2]
    assert [logprob for _, logprob in tops] == pytest.approx(own[:3], abs=1e-6)
    allowed = choose(only(LOGITS, [2, 4]), params, [0], 0)
    assert [token for token, _ in allowed.tops] == [2, 4]
    assert sum(math.exp(logprob) for _, logprob in allowed.tops) == pytest.approx(1.0)
    assert choose(LOGITS, SamplingParams(), [0], 0).tops == ()
    assert len(choose(LOGITS, replace(params, top_logprobs=20), [0], 0).tops) == len(LOGITS)


def test_the_log_probability_is_the_targets_own():
    choice = choose(LOGITS, SamplingParams(temperature=0.3, top_k=1), [], 0)
    assert choice.logprob == pytest.approx(torch.log_softmax(LOGITS, -1)[0].item(), abs=1e-6)
