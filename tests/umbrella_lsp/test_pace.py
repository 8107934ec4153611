"""When a slow target is worth asking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.pace import MAX_GAPS, PAUSES_MS, Cadence, Speed, Speedometer, Worth, pause_ms

FAST, SLOW, VERY_SLOW = Speed(20.0, 5.0), Speed(1000.0, 30.0), Speed(30_000.0, 30.0)


def typing_every(gap_ms: float) -> Cadence:
    cadence = Cadence()
    for key in range(MAX_GAPS + 1):
        cadence.key(key * gap_ms)
    return cadence


@given(st.floats(0, 1), st.floats(0, 500))
def test_a_fast_target_is_asked_at_once_whatever_it_is_worth(accepted: float, characters: float) -> None:
    assert pause_ms(FAST, Worth(accepted, characters), Cadence()) == 0.0


def test_a_slow_target_is_asked_after_a_pause() -> None:
    assert pause_ms(SLOW, Worth(0.3, 20), Cadence()) in PAUSES_MS


def test_the_longer_a_pass_takes_the_longer_a_pause_has_to_be() -> None:
    pauses = [pause_ms(Speed(ms, 30.0), Worth(0.3, 100), Cadence()) for ms in (300.0, 1000.0, 3000.0)]
    assert None not in pauses
    assert pauses == sorted({pause or 0.0 for pause in pauses})


@pytest.mark.parametrize(
    ("speed", "worth"), [(SLOW, Worth(0.3, 1)), (SLOW, Worth(0.0, 100)), (VERY_SLOW, Worth(0.3, 20))]
)
def test_what_is_hardly_of_use_is_not_asked_for(speed: Speed, worth: Worth) -> None:
    assert pause_ms(speed, worth, Cadence()) is None


def test_someone_who_never_pauses_is_waited_for_longer() -> None:
    worth = Worth(0.5, 40)
    hasty = pause_ms(SLOW, worth, typing_every(300))
    slow = pause_ms(SLOW, worth, typing_every(4000))
    assert slow == PAUSES_MS[0]
    assert hasty is not None
    assert hasty > 300


def test_the_share_of_pauses_that_last_is_read_off_the_last_keys() -> None:
    cadence = typing_every(150)
    assert cadence.stays(0, 1000) < 0.02
    assert cadence.stays(0, 100) > 0.98
    assert typing_every(2000).stays(500, 1000) > 0.98


def test_what_passes_take_is_learnt_from_answers() -> None:
    meter = Speedometer(Speed(10.0, 5.0))
    assert not meter.asks_draft_first
    for _ in range(30):
        meter.saw_passes(2, 2000.0)
    assert meter.speed.pass_ms == pytest.approx(1000.0, rel=0.01)
    assert meter.asks_draft_first
    meter.saw_passes(0, 0.0)
    assert meter.speed.pass_ms > 900
