from __future__ import annotations

from collections.abc import Callable, Generator
from threading import Event

import pytest
import torch
from torch import Tensor

from engine.offload.read_ahead import ReadAhead
from tests.engine.fakes import eventually

Read = Callable[[int, Tensor], None]


class Disk:
    def __init__(self) -> None:
        self.read: list[int] = []
        self.failing: set[int] = set()
        self.begun = Event()

    def __call__(self, layer: int, memory: Tensor) -> None:
        self.read.append(layer)
        self.begun.set()
        if layer in self.failing:
            raise OSError("unreadable")
        memory.fill_(layer)


class Reached:
    """A copy that has ended."""

    def synchronize(self) -> None:
        pass


class Copying(Reached):
    """A copy that ends when it is told to."""

    def __init__(self) -> None:
        self.waited_for, self.end = Event(), Event()

    def synchronize(self) -> None:
        self.waited_for.set()
        assert self.end.wait(10)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def ahead(disk: Disk) -> Generator[ReadAhead]:
    made = ReadAhead(disk, [torch.empty(8, dtype=torch.uint8) for _ in range(2)])
    yield made
    made.close()


def used(ahead: ReadAhead, *layers: int) -> list[list[int]]:
    """What the stages of `layers` hold, taken and given back one after another."""
    seen: list[list[int]] = []
    for layer in layers:
        stage = ahead.take(layer)
        seen.append(stage.memory.unique().tolist())
        ahead.give_back(stage, Reached())
    return seen


def test_in_the_second_pass_each_layer_is_read_before_it_is_asked_for(ahead: ReadAhead, disk: Disk) -> None:
    assert used(ahead, 2, 5, 7) == [[2], [5], [7]]
    assert disk.read == [2, 5, 7], "so far nobody knows what follows"
    assert used(ahead, 2) == [[2]]
    eventually(lambda: disk.read[3:] == [2, 5, 7])
    assert used(ahead, 5) == [[5]]
    eventually(lambda: disk.read[6:] == [2])


def test_a_layer_that_nobody_expected_is_read_at_once(ahead: ReadAhead) -> None:
    used(ahead, 1, 2, 3, 1, 2)
    assert used(ahead, 9, 1, 2, 3) == [[9], [1], [2], [3]]


def test_a_stage_is_not_read_into_before_it_has_been_copied_from(disk: Disk) -> None:
    ahead, copying = ReadAhead(disk, [torch.empty(8, dtype=torch.uint8)]), Copying()
    used(ahead, 1, 2)
    stage = ahead.take(1)
    ahead.give_back(stage, copying)  # 2 comes next, and there is no other place for it.
    assert copying.waited_for.wait(10)
    assert stage.memory.unique().tolist() == [1]
    copying.end.set()
    assert used(ahead, 2) == [[2]]
    ahead.close()


def test_what_could_not_be_read_ahead_is_tried_again_when_it_is_needed(ahead: ReadAhead, disk: Disk) -> None:
    used(ahead, 1, 2)
    disk.failing = {2}
    disk.begun.clear()
    used(ahead, 1)
    assert disk.begun.wait(10)
    with pytest.raises(OSError, match="unreadable"):
        ahead.take(2)
    disk.failing = set()
    assert used(ahead, 2, 1, 2) == [[2], [1], [2]]


def test_the_only_layer_on_disk_is_read_again_for_the_next_pass(ahead: ReadAhead, disk: Disk) -> None:
    used(ahead, 4, 4)
    eventually(lambda: disk.read == [4, 4, 4])
