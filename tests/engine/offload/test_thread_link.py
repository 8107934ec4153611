"""The ring on the simulated link: real bytes, copied by a thread, with everything going wrong that can."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import DeviceError
from engine.offload.ring import Ring
from engine.offload.thread_link import ThreadLink
from tests.engine.offload.passes import LAYERS, PASSES, STREAMED, Walk, walk

ALL = list(range(LAYERS))
SIZE = 4096


class Host:
    """Layers, each of its own bytes; copying one may take long or fail."""

    def __init__(self, *, slow: Sequence[int] = (), failing: Sequence[int] = ()) -> None:
        self.slow, self.failing = set(slow), set(failing)
        """Layers."""
        self.copied = threading.Semaphore(0)
        """Counts copies that have begun."""

    def copy_into(self, layer: int, slot: Tensor) -> None:
        slot.fill_(255)
        self.copied.release()
        if layer in self.slow:
            time.sleep(0.003)
        if layer in self.failing:
            raise OSError("the disk is gone")
        slot.fill_(layer)


class Model:
    """Some layers of `host` behind a ring; what it computes with each is its bytes."""

    def __init__(
        self, host: Host, streamed: list[int] = ALL, slots: int = 3, bytes_per_s: float | None = None
    ) -> None:
        self._slots = [torch.empty(SIZE, dtype=torch.uint8) for _ in range(slots)]
        self.link = ThreadLink(host.copy_into, self._slots, bytes_per_s)
        self.ring = Ring(streamed, slots, self.link)
        self._streamed = streamed
        self._used: list[int] = []

    def _use(self, layer: int, slot: int | None) -> None:
        if slot is not None:
            assert self._slots[slot].unique().tolist() == [layer]
            self._used.append(layer)

    def run(self, todo: Walk | None = None) -> list[int]:
        """A pass: the layers that it has computed."""
        self._used.clear()
        walk(self.ring, self._streamed, self._use, todo or Walk())
        return self._used


@settings(max_examples=40)
@given(STREAMED, st.integers(1, 4), PASSES, st.sets(st.integers(0, LAYERS - 1), max_size=2))
def test_whatever_passes_are_cut_short_nested_or_fail_each_layer_is_computed_with_its_own_bytes(
    streamed: list[int], slots: int, passes: list[Walk], failing: set[int]
) -> None:
    host = Host(failing=list(failing))
    model = Model(host, streamed, slots)
    for todo in passes:
        with suppress(DeviceError):
            model.run(todo)
    host.failing.clear()
    with suppress(DeviceError):
        model.run()  # One more may fail, of a copy that was under way.
    assert model.run() == streamed
    model.ring.close()


@pytest.mark.parametrize("boundary", range(LAYERS + 1))
def test_warm_equals_cold_after_a_cancel_at_any_boundary(boundary: int) -> None:
    model = Model(Host(slow=[1, 4]))
    assert model.run(Walk(stop=boundary)) == ALL[:boundary]
    assert model.run() == ALL
    model.ring.close()


def test_a_slow_copy_is_waited_for() -> None:
    model = Model(Host(slow=ALL), slots=2)
    assert model.run() == ALL
    model.ring.close()


@pytest.mark.parametrize("slots", [1, 3])
def test_a_failed_copy_ends_its_pass_with_the_reason_and_the_next_one_works(slots: int) -> None:
    host = Host(failing=[4])
    model = Model(host, slots=slots)
    with pytest.raises(DeviceError, match="could not be copied: the disk is gone"):
        model.run()
    host.failing.clear()
    assert model.run() == ALL
    model.ring.close()


def test_closing_while_copying_waits_for_that_copy_gives_up_the_others_and_says_so() -> None:
    host = Host()
    model = Model(host, bytes_per_s=SIZE / 20.0)
    host.copied.acquire()
    begun_s = time.perf_counter()
    model.ring.close()
    model.ring.close()
    assert time.perf_counter() - begun_s < 10.0
    assert not host.copied.acquire(blocking=False)
    with pytest.raises(DeviceError, match="closed meanwhile"):
        model.ring.take(1)


def test_the_simulated_link_is_as_fast_as_it_says() -> None:
    size, copies, bytes_per_s = 1 << 20, 30, 1e9
    link = ThreadLink(lambda _layer, _slot: None, [torch.empty(size, dtype=torch.uint8)], bytes_per_s)
    rates: list[float] = []
    while not rates or max(rates) < 0.95 * bytes_per_s:
        # A busy machine may make it late once or more often, but never early.
        assert len(rates) < 20
        begun_s = time.perf_counter()
        marks = [link.copy(layer, 0, None) for layer in range(copies)]
        link.wait(marks[-1])
        rates.append(copies * size / (time.perf_counter() - begun_s))
    assert max(rates) <= 1.001 * bytes_per_s
    link.close()


def test_how_long_a_copy_still_takes_is_told_by_how_long_it_has_been_running() -> None:
    begun = threading.Event()
    link = ThreadLink(lambda _layer, _slot: begun.set(), [torch.empty(SIZE, dtype=torch.uint8)], SIZE / 20.0)
    with closing(link):
        first, second = link.copy(0, 0, None), link.copy(1, 0, None)
        assert begun.wait(10.0)
        left_ms = link.left_ms(first)
        assert 0.0 < left_ms < 20e3
        assert left_ms < link.left_ms(second) < 40e3
    assert link.left_ms(first) == 0.0


def test_of_an_unlimited_link_it_is_known_once_it_has_copied() -> None:
    gate = threading.Event()

    def copy_into(layer: int, _slot: Tensor) -> None:
        if layer:
            gate.wait(10.0)
        else:
            time.sleep(0.005)

    link = ThreadLink(copy_into, [torch.empty(SIZE, dtype=torch.uint8)])
    link.wait(link.copy(0, 0, None))
    held, queued = link.copy(1, 0, None), link.copy(2, 0, None)
    assert 0.0 <= link.left_ms(held) < link.left_ms(queued)
    assert link.left_ms(queued) >= 5.0
    gate.set()
    link.wait(queued)
    assert link.left_ms(queued) == 0.0
    link.close()
