"""A link whose copies are done by a thread, beside computation that is done by the caller itself.

For a CPU. Without a limit it reads layers that do not fit into memory. With one it is the *simulated link*,
as slow as the one between a host and a device: so scheduling can be seen at work where there is no device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from engine.offload.copying import Pending, raise_failure
from engine.offload.link import Mark

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True, eq=False)
class _Copy:
    size_bytes: int
    issued_s: float
    begun_s: float | None = None
    done: Future[None] = field(default_factory=Future[None])

    def has_ended(self) -> bool:
        return self.done.done()

    def gone_ms(self) -> float:
        return 0.0 if self.begun_s is None else (time.perf_counter() - self.begun_s) * 1000.0


class ThreadLink:
    """Has `copy_into(layer, slot)` fill the `slots` (uint8, of one size) with layers, one after the other.

    `bytes_per_s`: no faster than that, a layer counting as a whole slot.
    """

    def __init__(
        self,
        copy_into: Callable[[int, Tensor], None],
        slots: Sequence[Tensor],
        bytes_per_s: float | None = None,
    ) -> None:
        self._copy_into = copy_into
        self._slots = tuple(slots)
        self._bytes_per_s = bytes_per_s
        self._ms_per_byte = 1000.0 / bytes_per_s if bytes_per_s else 0.0
        """What the last copy took; before the first one it is not known."""
        self._due_s = 0.0
        """When a link of that speed would be done with all that the thread has begun."""
        self._pending = Pending()
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, "layers")

    def copy(self, layer: int, slot: int, after: Mark | None) -> Mark:  # noqa: ARG002 - it is reached
        """See `Link.copy`."""
        copy = _Copy(self._slots[slot].nbytes, time.perf_counter())
        copy.done = self._thread.submit(self._run, copy, layer, self._slots[slot])
        self._pending.ended()
        self._pending.add(copy)
        return copy

    def _run(self, copy: _Copy, layer: int, slot: Tensor) -> None:
        copy.begun_s = time.perf_counter()
        self._copy_into(layer, slot)
        if self._bytes_per_s is None:
            self._ms_per_byte = copy.gone_ms() / copy.size_bytes
        else:
            # One due time follows from the last and not from when the thread woke up, so that delays do
            # not add up.
            self._due_s = max(self._due_s, copy.issued_s) + copy.size_bytes / self._bytes_per_s
            self._closed.wait(max(0.0, self._due_s - time.perf_counter()))

    def wait(self, mark: Mark) -> None:
        """See `Link.wait`. The caller itself waits."""
        raise_failure(cast(_Copy, mark).done)

    def mark(self) -> Mark:
        """See `Link.mark`. Reached at once: what the caller has issued it has done."""
        return None

    def catch_up(self, mark: Mark) -> None:
        """See `Link.catch_up`."""

    def left_ms(self, mark: Mark) -> float:
        """See `Link.left_ms`."""
        self._pending.ended()
        return self._pending.left_ms(mark, self._ms_per_byte)

    def close(self) -> None:
        """See `Link.close`. A copy that has begun is waited for: nothing writes into the slots after this."""
        self._closed.set()
        self._thread.shutdown(cancel_futures=True)
