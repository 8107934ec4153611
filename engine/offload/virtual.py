"""A link on a virtual clock, for exact schedules: nothing is copied and nothing is waited for. Torch-free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

from engine.offload.link import Mark
from engine.offload.read_ahead import STAGES


class VirtualLink:
    """Two queues and a calling thread, each of which knows how far in time it has come.

    Issuing takes no time. A mark is the moment at which it is reached, in ms.
    """

    def __init__(
        self, copy_ms: Callable[[int], float], read_ms: Callable[[int], float] = lambda _layer: 0.0
    ) -> None:
        """`read_ms`: what reading a layer from disk takes, as `ReadAhead` does; 0.0 if it need not."""
        self._copy_ms = copy_ms
        self._read_ms = read_ms
        self.now_ms = 0.0
        """Of the calling thread."""
        self.computed_ms = 0.0
        """When all computation that has been issued will be done."""
        self._copied_ms = 0.0
        self._read_until_ms = 0.0
        self._stages_free_ms = deque([0.0] * STAGES, STAGES)
        """When each of the stages is free to be read into, the first to be so first."""
        self.disk_busy_ms = 0.0
        self.link_busy_ms = 0.0
        """Of all copies that have been issued, the time that they take."""

    def compute(self, ms: float) -> None:
        """Issue a computation that takes `ms`."""
        self.computed_ms = max(self.computed_ms, self.now_ms) + ms

    def copy(self, layer: int, slot: int, after: Mark | None) -> Mark:  # noqa: ARG002 - wherever it goes
        begin_ms = max(self._copied_ms, self.now_ms, cast(float, after or 0.0))
        copy_ms, read_ms = self._copy_ms(layer), self._read_ms(layer)
        if read_ms > 0.0:
            # Begun as soon as a stage was free, and not now: it was known which layer would be asked for.
            self._read_until_ms = max(self._read_until_ms, self._stages_free_ms[0]) + read_ms
            begin_ms = max(begin_ms, self._read_until_ms)
            self.disk_busy_ms += read_ms
            self._stages_free_ms.append(begin_ms + copy_ms)
        self.link_busy_ms += copy_ms
        self._copied_ms = begin_ms + copy_ms
        return self._copied_ms

    def wait(self, mark: Mark) -> None:
        self.computed_ms = max(self.computed_ms, cast(float, mark))

    def mark(self) -> Mark:
        return self.computed_ms

    def catch_up(self, mark: Mark) -> None:
        self.now_ms = max(self.now_ms, cast(float, mark))

    def left_ms(self, mark: Mark) -> float:
        return max(0.0, cast(float, mark) - self.now_ms)

    def close(self) -> None:
        pass
