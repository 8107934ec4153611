"""A link that copies layers from host memory into a CUDA device's, on a stream of its own.

Streams and events alone keep the order between copies and computation; nothing waits for the whole device.
Where layers are not in host memory, which another thread then reads from disk, or where copying waits, as it
does from memory that is not registered, a thread issues all copies, so that they stay in order.
*Unverified on a GPU.*
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from engine.faults import device_errors
from engine.offload.arena import Arena, CudaRegistrar, Registrar
from engine.offload.copying import Pending, raise_failure
from engine.offload.link import Mark
from engine.offload.read_ahead import STAGES, ReadAhead

if TYPE_CHECKING:
    from engine.offload.packed_file import LayerSource


class Event(Protocol):
    """What is used of `torch.cuda.Event`."""

    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Event) -> float: ...


class Stream(Protocol):
    """What is used of `torch.cuda.Stream`."""

    def record_event(self, event: Event) -> Event: ...
    def wait_event(self, event: Event) -> None: ...
    def synchronize(self) -> None: ...


class Cuda(Protocol):
    """What a link asks of a device."""

    def new_stream(self) -> Stream: ...

    def compute_stream(self) -> Stream:
        """The one that the calling thread computes on."""
        ...

    def new_event(self) -> Event: ...

    def copy(self, source: Tensor, target: Tensor, stream: Stream) -> None:
        """Issue a copy of `source`, in host memory, to `target`, on the device: both uint8 and as long."""
        ...

    def registrar(self) -> Registrar | None: ...


class TorchCuda:
    """A device as torch has it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def new_stream(self) -> Stream:
        return cast(Stream, torch.cuda.Stream(self._device))

    def compute_stream(self) -> Stream:
        return cast(Stream, torch.cuda.current_stream(self._device))

    def new_event(self) -> Event:
        # Blocking: a thread that waits for one sleeps, and does not keep a core busy for whole passes.
        return cast(Event, torch.cuda.Event(enable_timing=True, blocking=True))

    def copy(self, source: Tensor, target: Tensor, stream: Stream) -> None:
        with torch.cuda.stream(cast(torch.cuda.Stream, stream)):
            target.copy_(source, non_blocking=True)

    def registrar(self) -> Registrar | None:
        return CudaRegistrar()


class _Clock:
    """Where the device's time lies on the caller's clock."""

    def __init__(self) -> None:
        self._event: Event | None = None
        self._at_s = 0.0

    def wait_for(self, event: Event) -> None:
        """Wait until `event` is reached."""
        if not event.query():
            event.synchronize()
            # It is reached now, and not at some time before.
            self._event, self._at_s = event, perf_counter()

    def since_ms(self, event: Event) -> float:
        """How long ago `event` was reached; 0.0 if it was not, or if that cannot be told."""
        if self._event is None or not event.query():
            return 0.0
        return (perf_counter() - self._at_s) * 1000.0 - self._event.elapsed_time(event)


@dataclass(slots=True, eq=False)
class _Copy:
    layer: int
    target: Tensor
    size_bytes: int
    after: Event | None
    begin: Event
    end: Event
    clock: _Clock
    issued: Future[None] = field(default_factory=Future[None])
    """Done once `begin` and `end` are on their stream."""

    def has_ended(self) -> bool:
        return self.issued.done() and (self.issued.exception() is not None or self.end.query())

    def gone_ms(self) -> float:
        return self.clock.since_ms(self.begin) if self.issued.done() else 0.0


class CudaLink:
    """Copies layers into `slots` (uint8 on `device`, of one size) from `host`, or else from `source`.

    `host`: the layers in host memory (uint8), all `registered` with the device, or not. `cuda` is for tests.
    """

    def __init__(
        self,
        host: Mapping[int, Tensor],
        slots: Sequence[Tensor],
        device: torch.device,
        source: LayerSource,
        cuda: Cuda | None = None,
        *,
        registered: bool = True,
    ) -> None:
        self._host = host
        self._slots = tuple(slots)
        self._source = source
        self._cuda = cuda or TorchCuda(device)
        self._stream = self._cuda.new_stream()
        # The slots' memory may have been something else's until now.
        self._stream.wait_event(self._reached())
        self._pending = Pending()
        self._ms_per_byte = 0.0
        self._clock = _Clock()
        self._issuer = None if registered else ThreadPoolExecutor(1, "layers")
        self._arena: Arena | None = None
        self._disk: ReadAhead | None = None

    def copy(self, layer: int, slot: int, after: Mark | None) -> Mark:
        """See `Link.copy`."""
        host = self._host.get(layer)
        size = self._source.size_bytes(layer) if host is None else host.nbytes
        event = self._cuda.new_event
        copy = _Copy(
            layer, self._slots[slot][:size], size, cast("Event | None", after), event(), event(), self._clock
        )
        if host is None and self._issuer is None:
            self._issuer = ThreadPoolExecutor(1, "layers")
        if self._issuer is not None:
            copy.issued = self._issuer.submit(self._issue, copy)
        else:
            try:
                self._issue(copy)
                copy.issued.set_result(None)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                copy.issued.set_exception(error)
        self._measure()
        self._pending.add(copy)
        return copy

    def _issue(self, copy: _Copy) -> None:
        with device_errors():
            host = self._host.get(copy.layer)
            if host is not None:
                self._copy(host, copy)
                return
            disk = self._disk or self._open_disk()
            stage = disk.take(copy.layer)
            try:
                self._copy(stage.memory[: copy.size_bytes], copy)
            finally:
                disk.give_back(stage, copy.end)

    def _copy(self, host: Tensor, copy: _Copy) -> None:
        if copy.after is not None:
            self._stream.wait_event(copy.after)
        self._stream.record_event(copy.begin)
        self._cuda.copy(host, copy.target, self._stream)
        self._stream.record_event(copy.end)

    def _open_disk(self) -> ReadAhead:
        def read(layer: int, memory: Tensor) -> None:
            self._source.read_into(layer, memory[: self._source.size_bytes(layer)])

        self._arena = Arena([len(self._slots[0])] * STAGES, self._cuda.registrar())
        self._disk = ReadAhead(read, [self._arena.add(index) for index in range(STAGES)])
        return self._disk

    def wait(self, mark: Mark) -> None:
        """See `Link.wait`."""
        copy = cast(_Copy, mark)
        raise_failure(copy.issued)
        self._cuda.compute_stream().wait_event(copy.end)

    def mark(self) -> Mark:
        """See `Link.mark`."""
        return self._reached()

    def _reached(self) -> Event:
        return self._cuda.compute_stream().record_event(self._cuda.new_event())

    def catch_up(self, mark: Mark) -> None:
        """See `Link.catch_up`."""
        self._clock.wait_for(cast(Event, mark))

    def left_ms(self, mark: Mark) -> float:
        """See `Link.left_ms`. Of a layer that comes from disk, its reading is left out."""
        self._measure()
        return self._pending.left_ms(mark, self._ms_per_byte)

    def _measure(self) -> None:
        for ended in self._pending.ended():
            copy = cast(_Copy, ended)
            if copy.issued.exception() is None:
                self._ms_per_byte = copy.begin.elapsed_time(copy.end) / copy.size_bytes

    def close(self) -> None:
        """See `Link.close`. Copies that have begun are waited for: then nothing reads or writes any more."""
        if self._issuer is not None:
            self._issuer.shutdown(cancel_futures=True)
        if self._disk is not None:
            self._disk.close()
        try:
            self._stream.synchronize()
        finally:
            arena, self._arena = self._arena, None
            if arena is not None:
                arena.close()
