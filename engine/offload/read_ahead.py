"""Reads layers from disk before they are asked for, for a link that then copies them to a device.

Passes need the same layers in the same order, so what came after a layer the last time comes after it again.
Torch-free. Used by one thread; the reading is done by another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

STAGES = 2
"""Places for layers on their way from disk: one is read into while the other is copied from."""


class Reached(Protocol):
    """A point in a device's work."""

    def synchronize(self) -> None:
        """Wait until it is reached."""
        ...


@dataclass(slots=True, eq=False)
class Stage:
    """A place for one layer at a time."""

    memory: Tensor
    left: Reached | None = None
    """Reached when what it held last has been copied from it."""


@dataclass(frozen=True, slots=True)
class _Read:
    stage: Stage
    done: Future[None]


class ReadAhead:
    """Has `read(layer, memory)` fill stages of that `memory` with the layers that will be asked for next."""

    def __init__(self, read: Callable[[int, Tensor], None], memory: Sequence[Tensor]) -> None:
        self._read = read
        self._free = deque(Stage(each) for each in memory)
        self._ahead: dict[int, _Read] = {}
        """By layer, those that were begun earlier first."""
        self._after: dict[int, int] = {}
        """By layer, the one that was asked for after it, the last time."""
        self._last: int | None = None
        self._thread = ThreadPoolExecutor(1, "disk")

    def take(self, layer: int) -> Stage:
        """A stage that holds `layer`; waits until it does. To be given back before the next is taken.

        Raises what reading raises.
        """
        if self._last is not None:
            self._after[self._last] = layer
        self._last = layer
        found = self._ahead.pop(layer, None)
        if found is None or found.done.exception() is not None:
            # What failed ahead of time is tried again now that it matters.
            found = self._begin(layer, self._spare() if found is None else found.stage)
        try:
            found.done.result()
        except BaseException:
            self._free.append(found.stage)
            raise
        return found.stage

    def give_back(self, stage: Stage, left: Reached) -> None:
        """What `stage` holds will have been copied from it once `left` is reached."""
        stage.left = left
        self._free.append(stage)
        layer = self._last
        for _ in range(STAGES):
            layer = None if layer is None else self._after.get(layer)
            if layer is not None and layer not in self._ahead and self._free:
                self._ahead[layer] = self._begin(layer, self._free.popleft())

    def close(self) -> None:
        """Wait for what is being read, and give up the rest."""
        self._thread.shutdown(cancel_futures=True)

    def _spare(self) -> Stage:
        """A stage that nothing is read into, or else the one of the layer that was expected first in vain."""
        return self._free.popleft() if self._free else self._ahead.pop(next(iter(self._ahead))).stage

    def _begin(self, layer: int, stage: Stage) -> _Read:
        def run() -> None:
            if stage.left is not None:
                stage.left.synchronize()
            self._read(layer, stage.memory)

        return _Read(stage, self._thread.submit(run))
