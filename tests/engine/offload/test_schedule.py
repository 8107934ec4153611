"""What a pass comes to whose layers stream: 70 billion parameters in INT4, on a virtual clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.offload.placement import spread
from engine.offload.schedule import Work, simulate

LAYERS = 80
COPY_MS = 17.8
"""444.6 MB at 25 GB/s."""


def streamed(resident: int) -> list[int]:
    stay = spread(LAYERS, resident) if resident else ()
    return [layer for layer in range(LAYERS) if layer not in stay]


def work(resident: int, slots: int, layer_ms: float, copy_ms: float = COPY_MS, head_ms: float = 2.0) -> Work:
    return Work(LAYERS, streamed(resident), slots, lambda _: copy_ms, layer_ms, head_ms)


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("resident", [10, 12, 31])
@pytest.mark.parametrize("layer_ms", [1.0, 5.0, 9.0, 12.0, 14.0, 18.7, 22.0, 25.0])
def test_a_pass_takes_what_the_slower_of_link_and_device_takes(
    resident: int, slots: int, layer_ms: float
) -> None:
    found = simulate(work(resident, slots, layer_ms))
    fastest, slowest = sorted((found.stream_ms, found.compute_ms))
    assert found.bound_ms == slowest
    if slowest >= 1.2 * fastest:
        assert found.pass_ms <= 1.05 * slowest
    assert found.pass_ms >= slowest - 1e-6
    assert found.cancel_to_idle_ms <= 3 * COPY_MS


@settings(max_examples=50)
@given(
    st.floats(2.0, 80.0),
    st.floats(0.05, 4.0),
    st.integers(0, LAYERS - 1),
    st.integers(2, 4),
    st.floats(0.0, 1.0),
)
def test_so_it_does_for_any_link_device_number_of_resident_layers_and_of_slots(
    copy_ms: float, share: float, resident: int, slots: int, head: float
) -> None:
    layer_ms = share * copy_ms * (LAYERS - resident) / LAYERS
    found = simulate(work(resident, slots, layer_ms, copy_ms, head * copy_ms))
    fastest, slowest = sorted((found.stream_ms, found.compute_ms))
    assume(slowest >= 1.2 * fastest)
    assert found.pass_ms <= 1.05 * slowest


def test_the_link_is_busy_all_the_time_where_it_is_the_slower_one() -> None:
    found = simulate(work(31, 3, 4.0))
    assert found.link_utilisation == pytest.approx(1.0)
    assert found.stream_ms == pytest.approx(49 * COPY_MS)


def test_drafting_in_the_waits_costs_nothing_and_between_passes_what_the_slots_cannot_hide() -> None:
    plain = work(31, 3, 4.0)
    assert simulate(replace(plain, wait_draft_ms=200.0)).exposed_draft_ms == pytest.approx(0.0)
    between = simulate(replace(plain, draft_ms=200.0)).exposed_draft_ms
    assert 200.0 - 3 * COPY_MS <= between < 200.0 - 2 * COPY_MS


def test_what_the_waits_do_not_hold_is_drafted_between_passes() -> None:
    busy = work(10, 3, 25.0)
    found = simulate(replace(busy, wait_draft_ms=100.0, draft_step_ms=8.0))
    assert found.exposed_draft_ms == pytest.approx(100.0)


def test_a_single_slot_has_copying_and_computing_alternate() -> None:
    found = simulate(work(0, 1, 5.0, head_ms=0.0))
    assert found.pass_ms == pytest.approx(LAYERS * (COPY_MS + 5.0))


def test_layers_that_are_copied_more_slowly_count_as_such() -> None:
    slow = frozenset(streamed(31)[:10])
    found = simulate(replace(work(31, 3, 1.0), copy_ms=lambda layer: 150.0 if layer in slow else COPY_MS))
    assert found.pass_ms == pytest.approx(10 * 150.0 + 39 * COPY_MS)


def test_a_model_that_does_not_stream_takes_what_it_computes() -> None:
    found = simulate(Work(LAYERS, (), 0, lambda _: COPY_MS, 2.0, 1.0, draft_ms=3.0))
    assert (found.pass_ms, found.stream_ms, found.exposed_draft_ms) == pytest.approx((164.0, 0.0, 3.0))
