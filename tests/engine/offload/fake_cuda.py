"""CUDA's streams and events without a device: what was issued runs later, in an order as bad as is allowed.

Two streams, one that computes and one that copies. The favoured one runs as soon and as far as it may, the
other only as far as somebody waits for it. So a link that forgets to wait is found out, on whichever side.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from engine.offload.arena import Registrar
from engine.offload.cuda_link import Event, Stream

Side = Literal["compute", "copies"]

COPY_MS = 20.0
"""What a copy takes on the fake's clock; all else takes no time."""


class NotReached(Exception):
    """An event was asked for its time that was not reached."""


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.recorded = False
        self.reached_ms: float | None = None

    def query(self) -> bool:
        return not self.recorded or self.reached_ms is not None

    def synchronize(self) -> None:
        self._cuda.run_until(self.query)

    def elapsed_time(self, end_event: Event) -> float:
        assert isinstance(end_event, FakeEvent)
        if self.reached_ms is None or end_event.reached_ms is None:
            raise NotReached
        return end_event.reached_ms - self.reached_ms


class FakeStream:
    def __init__(self, cuda: FakeCuda, side: Side) -> None:
        self._cuda = cuda
        self._side: Side = side
        self.issued: deque[tuple[Callable[[], bool], Callable[[], object]]] = deque()
        """What has not run yet: whether it can, and what it does."""

    def record_event(self, event: Event) -> Event:
        assert isinstance(event, FakeEvent)
        if self._cuda.without != (self._side, "records"):
            event.recorded = True
            self.issue(lambda: True, lambda: setattr(event, "reached_ms", self._cuda.now_ms))
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, FakeEvent)
        # As CUDA has it: one that has not been recorded by now is not waited for.
        if event.recorded and self._cuda.without != (self._side, "waits"):
            self.issue(event.query, lambda: None)

    def synchronize(self) -> None:
        self._cuda.run_until(lambda: not self.issued)

    def issue(self, can_run: Callable[[], bool], run: Callable[[], object]) -> None:
        with self._cuda.lock:
            self.issued.append((can_run, run))
            self._cuda.run_favoured()

    def step(self) -> bool:
        """Run what is next, if it can."""
        if not self.issued or not self.issued[0][0]():
            return False
        self.issued.popleft()[1]()
        return True


class FakeCuda:
    """`without`: what one of the streams does not do though it is told, to see that it matters."""

    def __init__(
        self, favoured: Side, without: tuple[Side, Literal["waits", "records"]] | None = None
    ) -> None:
        self.without = without
        self.lock = threading.RLock()
        self.now_ms = 0.0
        self.compute = FakeStream(self, "compute")
        self.copies = FakeStream(self, "copies")
        both = [self.compute, self.copies]
        self._streams = both if favoured == "compute" else both[::-1]

    def new_stream(self) -> Stream:
        return self.copies

    def compute_stream(self) -> Stream:
        return self.compute

    def new_event(self) -> Event:
        return FakeEvent(self)

    def copy(self, source: Tensor, target: Tensor, stream: Stream) -> None:
        assert stream is self.copies
        assert len(source) == len(target)

        def run() -> None:
            self.now_ms += COPY_MS
            target.copy_(source)

        self.copies.issue(lambda: True, run)

    def registrar(self) -> Registrar | None:
        return None

    def run_favoured(self) -> None:
        while self._streams[0].step():
            pass

    def run_until(self, reached: Callable[[], bool]) -> None:
        with self.lock:
            while not reached():
                assert any(stream.step() for stream in self._streams), "this waits for ever"
                self.run_favoured()
