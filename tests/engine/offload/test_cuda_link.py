"""The ring between two streams: on a fake device that runs things as late as it may, and on a real one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from functools import partial
from threading import Event, Thread
from time import perf_counter
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import CheckpointError, DeviceError
from engine.offload.arena import Arena, CudaRegistrar
from engine.offload.cuda_link import CudaLink, Stream
from engine.offload.layout import LayerLayout
from engine.offload.ring import Ring
from tests.engine.offload.fake_cuda import COPY_MS, FakeCuda, NotReached, Side
from tests.engine.offload.passes import LAYERS, PASSES, STREAMED, Walk, walk

ALL = list(range(LAYERS))
SIZE = 4096
CPU = torch.device("cpu")
SIDES: tuple[Side, ...] = ("compute", "copies")


def size_of(layer: int) -> int:
    return SIZE - 64 * (layer % 2)


class Disk:
    """Layers, each of its own bytes."""

    def __init__(self) -> None:
        self.failing: set[int] = set()
        self.entered, self.gate = Event(), Event()
        self.gate.set()

    def size_bytes(self, layer: int) -> int:
        return size_of(layer)

    def layout(self, layer: int) -> LayerLayout:
        raise NotImplementedError

    def read_into(self, layer: int, buffer: Tensor) -> None:
        if layer in self.failing:
            raise CheckpointError("the file is gone")
        self.entered.set()
        self.gate.wait(10.0)
        buffer.fill_(layer)

    def close(self) -> None:
        pass


class Model:
    """A model whose computation with a layer is to look at its bytes, once the device comes to it."""

    def __init__(
        self, cuda: FakeCuda, streamed: list[int] = ALL, slots: int = 3, on_disk: Sequence[int] = ()
    ) -> None:
        self.cuda = cuda
        self.disk = Disk()
        self._slots = [torch.empty(SIZE, dtype=torch.uint8) for _ in range(slots)]
        for slot in self._slots:
            # Whoever had this memory before is still at work with it.
            self._compute(partial(slot.fill_, 255))
        host = {layer: _bytes_of(layer) for layer in streamed if layer not in on_disk}
        self.link = CudaLink(host, self._slots, CPU, self.disk, cuda)
        self.ring = Ring(streamed, slots, self.link)
        self._streamed = streamed
        self._used: list[int] = []
        self._seen: list[list[int]] = []

    def _compute(self, run: Callable[[], object]) -> None:
        self.cuda.compute.issue(lambda: True, run)

    def _use(self, layer: int, slot: int | None) -> None:
        if slot is not None:
            view = self._slots[slot][: size_of(layer)]
            self._used.append(layer)
            self._compute(lambda: self._seen.append(view.unique().tolist()))

    def run(self, todo: Walk | None = None, *, asks: bool = False) -> list[int]:
        """A pass: the layers that it has computed, once the device is done."""
        done = len(self._used)
        try:
            walk(self.ring, self._streamed, self._use, todo or Walk(), asks=asks)
        finally:
            self.cuda.compute.synchronize()
        return self._used[done:]

    @property
    def all_was_right(self) -> bool:
        return self._seen == [[layer] for layer in self._used]


def _bytes_of(layer: int) -> Tensor:
    return torch.full((size_of(layer),), layer, dtype=torch.uint8)


@settings(max_examples=50)
@given(
    st.sampled_from(SIDES),
    STREAMED,
    st.integers(1, 4),
    st.sets(st.integers(0, LAYERS - 1)),
    PASSES,
    st.booleans(),
    st.sets(st.integers(0, LAYERS - 1), max_size=2),
)
def test_whatever_passes_are_cut_short_nested_or_fail_each_layer_is_computed_with_its_own_bytes(
    favoured: Side,
    streamed: list[int],
    slots: int,
    on_disk: set[int],
    passes: list[Walk],
    asks: bool,
    failing: set[int],
) -> None:
    model = Model(FakeCuda(favoured), streamed, slots, list(on_disk))
    model.disk.failing = failing
    for todo in passes:
        with suppress(DeviceError):
            model.run(todo, asks=asks)
    model.disk.failing = set()
    with suppress(DeviceError):
        model.run(asks=asks)  # One more may fail, of a copy that was under way.
    assert model.run(asks=asks) == streamed
    model.ring.close()
    assert model.all_was_right
    assert not model.cuda.copies.issued


@pytest.mark.parametrize(
    ("favoured", "without"),
    [
        ("compute", ("compute", "waits")),
        ("compute", ("copies", "records")),
        ("copies", ("copies", "waits")),
        ("copies", ("compute", "records")),
    ],
)
def test_every_wait_and_every_record_is_needed(
    favoured: Side, without: tuple[Side, Literal["waits", "records"]]
) -> None:
    assert not _goes_wrong(FakeCuda(favoured))
    assert _goes_wrong(FakeCuda(favoured, without))


def _goes_wrong(cuda: FakeCuda) -> bool:
    try:
        model = Model(cuda)
        with closing(model.ring):
            model.run()
    except NotReached:
        return True
    return not model.all_was_right


def test_a_pass_in_which_all_copies_come_late_is_issued_no_further_than_one_layer_ahead() -> None:
    cuda = FakeCuda("compute")
    model = Model(cuda)
    for layer in ALL:
        model.ring.take(layer)
        cuda.compute.issue(lambda: True, lambda: None)
        model.ring.release(layer)
        # Of this layer and of none before: to wait for its copy, to compute, to record its end.
        assert len(cuda.compute.issued) <= 3
    model.ring.close()


@pytest.mark.parametrize("favoured", SIDES)
def test_a_layer_that_cannot_be_read_ends_its_pass_with_the_reason_and_the_next_one_works(
    favoured: Side,
) -> None:
    model = Model(FakeCuda(favoured), on_disk=[4])
    model.disk.failing = {4}
    with pytest.raises(DeviceError, match="could not be copied: the file is gone"):
        model.run()
    model.disk.failing = set()
    assert model.run() == ALL
    assert model.all_was_right
    model.ring.close()


def test_a_gpu_that_is_lost_is_said_to_be_where_the_layer_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda("copies")

    def copy(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(cuda, "copy", copy)
    model = Model(cuda)
    with pytest.raises(DeviceError) as raised:
        model.ring.take(0)
    assert raised.value.lost
    model.ring.close()


def test_closing_while_a_layer_is_read_waits_for_it_and_gives_up_the_others() -> None:
    cuda, disk = FakeCuda("compute"), Disk()
    disk.gate.clear()
    link = CudaLink({}, [torch.empty(SIZE, dtype=torch.uint8)], CPU, disk, cuda)
    marks = [link.copy(layer, 0, None) for layer in (0, 1)]
    assert disk.entered.wait(10.0)
    closer = Thread(target=link.close)
    closer.start()
    with pytest.raises(DeviceError, match="closed meanwhile"):
        link.wait(marks[1])
    assert closer.is_alive()
    disk.gate.set()
    closer.join()
    assert not cuda.copies.issued
    link.close()


def test_copies_stay_in_order_though_some_layers_have_to_be_read_first() -> None:
    disk, slot = Disk(), torch.empty(SIZE, dtype=torch.uint8)
    disk.gate.clear()
    link = CudaLink({2: _bytes_of(2)}, [slot], CPU, disk, FakeCuda("copies"))
    link.copy(0, 0, None)
    last = link.copy(2, 0, None)
    disk.gate.set()
    link.wait(last)
    link.close()
    assert slot.unique().tolist() == [2]


def test_a_layer_is_read_while_the_one_before_it_is_still_copied() -> None:
    cuda = FakeCuda("compute")
    slots = [torch.empty(SIZE, dtype=torch.uint8) for _ in range(3)]
    link = CudaLink({}, slots, CPU, Disk(), cuda)
    marks = [link.copy(layer, layer, None) for layer in (0, 1, 2)]
    link.wait(marks[2])
    assert cuda.now_ms == COPY_MS  # Only the third needs the place of the first.
    link.close()


def test_copying_that_waits_is_left_to_a_thread() -> None:
    go_on = Event()

    class Waiting(FakeCuda):
        def copy(self, source: Tensor, target: Tensor, stream: Stream) -> None:
            assert go_on.wait(10)
            super().copy(source, target, stream)

    slot = torch.empty(SIZE, dtype=torch.uint8)
    link = CudaLink({2: _bytes_of(2)}, [slot], CPU, Disk(), Waiting("copies"), registered=False)
    mark = link.copy(2, 0, None)
    go_on.set()
    link.wait(mark)
    link.close()
    assert slot.unique().tolist() == [2]


def test_how_long_a_copy_still_takes_is_told_from_the_ones_before(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda("compute")
    monkeypatch.setattr("engine.offload.cuda_link.perf_counter", lambda: cuda.now_ms / 1000.0)
    slots = [torch.empty(SIZE, dtype=torch.uint8) for _ in range(3)]
    link = CudaLink({layer: _bytes_of(layer) for layer in (0, 2, 4)}, slots, CPU, Disk(), cuda)
    first, second = link.copy(0, 0, None), link.copy(2, 1, None)
    assert (link.left_ms(first), link.left_ms(second)) == (0.0, 0.0)  # It is not known yet.
    link.wait(first)
    link.catch_up(link.mark())
    third = link.copy(4, 2, link.mark())
    assert (link.left_ms(second), link.left_ms(third)) == (COPY_MS, 2 * COPY_MS)
    cuda.now_ms += 3.0
    assert cuda.copies.step()  # The second begins.
    cuda.now_ms += 5.0
    assert (link.left_ms(second), link.left_ms(third)) == (COPY_MS - 5.0, 2 * COPY_MS - 5.0)
    link.close()
    assert (link.left_ms(second), link.left_ms(third)) == (0.0, 0.0)


MIB = 1 << 20
GPU_SIZE = 64 * MIB


@pytest.fixture
def host() -> Generator[dict[int, Tensor]]:
    """Layers in registered memory."""
    arena = Arena([GPU_SIZE] * LAYERS, CudaRegistrar())
    yield {layer: arena.add(layer).fill_(layer) for layer in ALL}
    arena.close()


@pytest.mark.gpu
@pytest.mark.parametrize("on_disk", [[], [2, 3, 6], ALL])
def test_on_a_gpu_each_layer_is_computed_with_its_own_bytes(
    host: dict[int, Tensor], on_disk: list[int]
) -> None:
    device = torch.device("cuda")
    slots = [torch.empty(GPU_SIZE, dtype=torch.uint8, device=device) for _ in range(3)]
    here = {layer: memory for layer, memory in host.items() if layer not in on_disk}
    ring = Ring(ALL, 3, CudaLink(here, slots, device, Disk()))
    ends: list[tuple[int, Tensor]] = []

    def use(layer: int, slot: int | None) -> None:
        assert slot is not None
        view = slots[slot][: GPU_SIZE if layer in here else size_of(layer)]
        ends.append((layer, torch.stack([view.min(), view.max()])))

    for stop in (LAYERS, 5, LAYERS, 1, LAYERS):
        walk(ring, ALL, use, Walk(stop), asks=stop == 5)
    assert all(seen.tolist() == [layer, layer] for layer, seen in ends)
    ring.close()


@pytest.mark.gpu
def test_on_a_gpu_the_link_is_as_busy_as_plain_copies_keep_it_and_computation_hides_beside_it(
    host: dict[int, Tensor],
) -> None:
    device = torch.device("cuda")
    slots = [torch.empty(GPU_SIZE, dtype=torch.uint8, device=device) for _ in range(3)]
    matrix = torch.randn(1024, 1024, device=device)

    def plain_s() -> float:
        torch.cuda.synchronize()
        begun_s = perf_counter()
        for layer in ALL * 4:
            slots[layer % 3].copy_(host[layer], non_blocking=True)
        torch.cuda.synchronize()
        return perf_counter() - begun_s

    plain_s()
    expected_s = min(plain_s() for _ in range(3))
    ring = Ring(ALL, 3, CudaLink(host, slots, device, Disk()))

    def use(_layer: int, _slot: int | None) -> None:
        torch.mm(matrix, matrix)

    def streamed_s() -> float:
        torch.cuda.synchronize()
        begun_s = perf_counter()
        for _ in range(4):
            walk(ring, ALL, use, Walk())
        return perf_counter() - begun_s

    streamed_s()
    assert expected_s / min(streamed_s() for _ in range(3)) >= 0.95
    ring.close()
