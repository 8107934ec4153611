import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.draft.calibration import Calibration

KIND = (0.2, 0.5, 0.8)
PRIORS = (KIND,)


def taught(calibration: Calibration, evidence: int, rate: float, trials: int) -> None:
    draws = random.Random(evidence)
    for _ in range(trials):
        calibration.learn(evidence, hit=draws.random() < rate)


def test_the_prior_is_what_is_believed_at_first():
    assert Calibration(PRIORS).chances == pytest.approx(KIND)


@pytest.mark.parametrize("rates", [(0.05, 0.3, 0.95), (0.4, 0.6, 0.65)])
def test_the_true_rates_are_learnt(rates: tuple[float, ...]):
    calibration = Calibration(PRIORS)
    for evidence, rate in enumerate(rates):
        taught(calibration, evidence, rate, 2000)
    assert calibration.chances == pytest.approx(rates, abs=0.07)


def test_evidence_that_was_never_seen_keeps_its_prior():
    calibration = Calibration(PRIORS)
    taught(calibration, 1, 0.6, 500)
    assert calibration.chances[0] == pytest.approx(KIND[0])
    assert calibration.chances[2] == pytest.approx(KIND[2])


def test_rates_that_fall_with_evidence_are_pooled():
    calibration = Calibration(PRIORS)
    taught(calibration, 1, 0.9, 1000)
    taught(calibration, 2, 0.3, 1000)
    assert calibration.chances[1] == calibration.chances[2]
    assert 0.3 < calibration.chances[1] < 0.9


def test_kinds_are_learnt_apart():
    calibration = Calibration(((0.8, 0.9), (0.2, 0.3)))
    taught(calibration, 2, 0.6, 1000)
    assert calibration.chances[:2] == pytest.approx((0.8, 0.9))
    assert calibration.chances[2] == calibration.chances[3], "within one, more is never worth less"


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=300))
def test_more_evidence_is_never_worth_less_and_every_chance_is_one(observed: list[tuple[int, bool]]):
    calibration = Calibration(PRIORS)
    for evidence, hit in observed:
        calibration.learn(evidence, hit=hit)
    assert calibration.chances == sorted(calibration.chances)
    assert len(calibration.chances) == len(KIND)
    assert all(0.0 < chance < 1.0 for chance in calibration.chances)


def test_what_was_learnt_long_ago_is_forgotten():
    calibration = Calibration(PRIORS)
    taught(calibration, 2, 0.95, 20_000)
    taught(calibration, 2, 0.3, 2_000)
    assert calibration.chances[2] < 0.4
