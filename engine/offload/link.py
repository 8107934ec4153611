"""The way between a store of layers and a device's slots, as the ring sees it.

Two queues that run beside each other, as CUDA streams do: one copies layers, one computes. A `Mark` is a
point in one of them that is reached once everything issued there before it is done. Times are a link's own: a
real clock's, or a virtual one's.
"""

from __future__ import annotations

from typing import Protocol


class Mark(Protocol):
    """A point in a queue."""


class Link(Protocol):
    """Copies whole layers into slots beside the computation. Used by one thread."""

    def copy(self, layer: int, slot: int, after: Mark | None) -> Mark:
        """Issue a copy of `layer` into `slot`, to begin once compute mark `after` is reached.

        Copies run one at a time, in the order of the calls. Returns the mark of its end, and does not wait.
        """
        ...

    def wait(self, mark: Mark) -> None:
        """Let no computation that is issued from here on begin before `mark`, a copy's end, is reached.

        Raises DeviceError if that copy failed.
        """
        ...

    def mark(self) -> Mark:
        """Reached when all computation that has been issued is done."""
        ...

    def catch_up(self, mark: Mark) -> None:
        """Let the calling thread itself wait until `mark` is reached, so that it is never far ahead."""
        ...

    def left_ms(self, mark: Mark) -> float:
        """How long from now until `mark`, a copy's end, is reached, as far as can be told; 0.0 if it is."""
        ...

    def close(self) -> None:
        """End what runs, and let go of memory and threads. Harmless when it is done already."""
        ...
