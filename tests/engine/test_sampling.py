import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.sampling import SamplingParams, choose, distribution, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -5.0])


def frequencies(params: SamplingParams, draws: int = 4000) -> list[float]:
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
    statistic = sum(4000 * (d - float(e)) ** 2 / float(e) for d, e in zip(drawn, expected, strict=True))
    assert statistic < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_top_k_leaves_the_k_most_probable():
    kept = distribution(LOGITS, SamplingParams(temperature=1.0, top_k=2), [])
    assert kept.nonzero().flatten().tolist() == [0, 1]


def test_top_p_keeps_the_token_that_crosses_the_threshold_and_always_one():
    probabilities = torch.softmax(LOGITS, -1)
    crossing = float(probabilities[0]) + 0.01
    two = distribution(LOGITS, SamplingParams(temperature=1.0, top_p=crossing), [])
    assert two.nonzero().flatten().tolist() == [0, 1]
    one = distribution(LOGITS, SamplingParams(temperature=1.0, top_p=0.0), [])
    assert one.nonzero().flatten().tolist() == [0]


def test_min_p_is_relative_to_the_most_probable():
    kept = distribution(LOGITS, SamplingParams(temperature=1.0, min_p=0.3), [])
    assert kept.nonzero().flatten().tolist() == [0, 1]


def test_the_repetition_penalty_lowers_seen_tokens_of_either_sign():
    penalised = distribution(LOGITS, SamplingParams(temperature=1.0, repetition_penalty=3.0), [0, 3])
    plain = distribution(LOGITS, SamplingParams(temperature=1.0), [])
    assert penalised[0] / penalised[1] < plain[0] / plain[1]
    assert penalised[3] / penalised[1] < plain[3] / plain[1]
    assert choose(LOGITS, SamplingParams(repetition_penalty=3.0), [0], 0).token == 1


def test_the_log_probability_is_the_targets_own():
    choice = choose(LOGITS, SamplingParams(temperature=0.3, top_k=1), [], 0)
    assert choice.logprob == pytest.approx(torch.log_softmax(LOGITS, -1)[0].item(), abs=1e-6)
