"""Which layer is in which slot when, on a virtual clock: exact, whatever passes do to each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DeviceError
from engine.offload.link import Mark
from engine.offload.ring import LAYERS_AHEAD, Ring
from engine.offload.virtual import VirtualLink
from tests.engine.offload.passes import LAYERS, PASSES, STREAMED, Walk, walk

ALL = list(range(LAYERS))


class Witness(VirtualLink):
    """Remembers when what was copied into a slot, and when a slot was computed with."""

    def __init__(self, copy_ms: Callable[[int], float], layer_ms: float = 3.0) -> None:
        super().__init__(copy_ms)
        self.layer_ms = layer_ms
        self.copies: list[tuple[int | None, int, float, float]] = []
        """Layer, slot, begin and end; no layer where the copy failed."""
        self.uses: list[tuple[int, int, float, float]] = []
        self.failing: set[int] = set()
        """Which copies fail, by their number."""
        self._failed: list[Mark] = []

    def copy(self, layer: int, slot: int, after: Mark | None) -> Mark:
        before_ms = self.link_busy_ms
        end = super().copy(layer, slot, after)
        assert isinstance(end, float)
        fails = len(self.copies) in self.failing
        if fails:
            self._failed.append(end)
        begin = end - (self.link_busy_ms - before_ms)
        self.copies.append((None if fails else layer, slot, begin, end))
        return end

    def wait(self, mark: Mark) -> None:
        if mark in self._failed:
            raise DeviceError("this copy fails")
        super().wait(mark)

    def use(self, layer: int, slot: int | None) -> None:
        self.compute(self.layer_ms)
        if slot is not None:
            self.uses.append((layer, slot, self.computed_ms - self.layer_ms, self.computed_ms))

    def what_was_seen(self) -> list[int | None]:
        """For each use, the layer that lay in its slot all the time; None if it was not all of one layer."""
        return [self._seen(slot, begin, end) for _, slot, begin, end in self.uses]

    def _seen(self, used: int, begin: float, end: float) -> int | None:
        into = [copy for copy in self.copies if copy[1] == used and copy[2] < end]
        layer, _, _, copied = into[-1]
        return layer if copied <= begin else None


@given(
    STREAMED,
    st.integers(1, 4),
    st.integers(1, 12),
    st.booleans(),
    PASSES,
    st.sets(st.integers(0, 60), max_size=5),
)
def test_whatever_passes_are_cut_short_nested_or_fail_each_layer_is_computed_with_its_own_bytes(
    streamed: list[int], slots: int, copy_ms: int, asks: bool, passes: list[Walk], failing: set[int]
) -> None:
    link = Witness(lambda layer: float(copy_ms + layer % 3))
    link.failing = failing
    ring = Ring(streamed, slots, link)
    for todo in passes:
        with suppress(DeviceError):
            walk(ring, streamed, link.use, todo, asks=asks)
    link.failing = set()
    with suppress(DeviceError):
        walk(ring, streamed, link.use, Walk(), asks=asks)  # One more may fail, of a copy that was under way.
    before = len(link.uses)
    walk(ring, streamed, link.use, Walk(), asks=asks)
    assert [layer for layer, *_ in link.uses[before:]] == streamed
    assert link.what_was_seen() == [layer for layer, *_ in link.uses]


def test_a_ring_as_large_as_its_layers_copies_each_only_once() -> None:
    link = Witness(lambda _: 5.0)
    ring = Ring([2, 5], 3, link)
    for _ in range(3):
        walk(ring, [2, 5], link.use, Walk())
    assert [copy[0] for copy in link.copies] == [2, 5]


def test_one_slot_serves_all_layers_without_overlap() -> None:
    link = Witness(lambda _: 5.0)
    ring = Ring(ALL, 1, link)
    walk(ring, ALL, link.use, Walk())
    assert link.computed_ms == LAYERS * (5.0 + 3.0)


def test_nothing_is_copied_twice_while_passes_follow_one_another() -> None:
    link = Witness(lambda _: 5.0)
    streamed = [0, 1, 3, 4, 6, 7]
    ring = Ring(streamed, 3, link)
    for _ in range(3):
        walk(ring, streamed, link.use, Walk())
    assert [copy[0] for copy in link.copies] == [*streamed * 3, 0, 1, 3]


def test_the_first_layers_of_the_next_pass_come_while_nothing_is_computed() -> None:
    link = Witness(lambda _: 5.0)
    ring = Ring(ALL, 3, link)
    walk(ring, ALL, link.use, Walk())
    link.catch_up(link.mark())
    link.now_ms += 15.0  # Drafting.
    assert [ring.left_ms(layer) for layer in (0, 1, 2)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("boundary", range(LAYERS))
def test_after_a_cancel_at_any_boundary_the_first_layers_come_at_once(boundary: int) -> None:
    link = Witness(lambda _: 5.0)
    ring = Ring(ALL, 3, link)
    walk(ring, ALL, link.use, Walk(stop=boundary))
    # What was under way cannot be called back: at most a copy for each slot.
    link.now_ms = link.computed_ms + 6 * 5.0
    assert [ring.left_ms(layer) for layer in (0, 1, 2)] == [0.0, 0.0, 0.0]
    walk(ring, ALL, link.use, Walk())
    assert link.what_was_seen() == [*range(boundary), *range(LAYERS)]


def test_the_caller_is_never_far_ahead_of_the_device() -> None:
    link = Witness(lambda _: 50.0, layer_ms=7.0)
    streamed = [0, 4, 5, 6]
    ring = Ring(streamed, 3, link)
    for layer in range(LAYERS):
        if layer in streamed:
            link.use(layer, ring.take(layer))
            ring.release(layer)
        else:
            link.use(layer, None)
            ring.keep_pace()
        under_way = link.computed_ms - link.now_ms
        assert under_way <= (LAYERS_AHEAD + 1) * 7.0 + 50.0


def test_how_long_a_layer_takes_to_come_is_how_long_the_device_would_idle() -> None:
    link = Witness(lambda _: 20.0)
    ring = Ring(ALL, 2, link)
    link.use(0, ring.take(0))
    ring.release(0)
    left_ms = ring.left_ms(1)
    assert (left_ms, link.now_ms) == (17.0, 23.0)
    link.compute(left_ms)  # Drafting that fits.
    link.use(1, ring.take(1))
    assert link.uses[-1][2] == 40.0


def test_a_failed_copy_ends_its_pass_and_nothing_that_was_fetched_with_it_is_trusted() -> None:
    link = Witness(lambda _: 5.0)
    link.failing = {1, 2}
    ring = Ring([0, 1, 2], 3, link)
    with pytest.raises(DeviceError, match="this copy fails"):
        walk(ring, [0, 1, 2], link.use, Walk())
    walk(ring, [0, 1, 2], link.use, Walk())
    assert link.what_was_seen() == [0, 0, 1, 2]


def test_a_layer_that_was_not_taken_cannot_be_released_nor_another_taken_in_the_only_slot() -> None:
    ring = Ring([0, 1], 1, VirtualLink(lambda _: 5.0))
    with pytest.raises(ValueError, match="not taken"):
        ring.release(0)
    ring.take(0)
    with pytest.raises(RuntimeError, match="all slots are in use"):
        ring.take(1)


def test_a_ring_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ring([], 2, VirtualLink(lambda _: 5.0))
    with pytest.raises(ValueError, match="at least one"):
        Ring([0], 0, VirtualLink(lambda _: 5.0))
