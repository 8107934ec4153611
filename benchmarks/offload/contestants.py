"""UMbreLLa's way of streaming layers, with our kernels, on a real clock.

It is a `LayerStore`, so that a `Transformer` runs with it as it does with ours. Of UMbreLLa it has the
schedule alone and no code: see `benchmarks.offload.umbrella`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.offload.umbrella import BUFFERS
from engine.layers import BeforeLayer, Layer
from engine.offload.link import Link, Mark


class Copies(Protocol):
    """How UMbreLLa's layers get into its two buffers."""

    def issue(self, layer: int, buffer: int) -> None:
        """Begin to copy beside the computation."""
        ...

    def synchronise(self) -> None:
        """Wait for all that was issued, computation included."""
        ...


class LinkCopies:
    """Over a link whose `wait` blocks the caller: the simulated one. Whole layers, for calls cost nothing."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._issued: list[Mark] = []

    def issue(self, layer: int, buffer: int) -> None:
        self._issued.append(self._link.copy(layer, buffer, None))

    def synchronise(self) -> None:
        for mark in self._issued:
            self._link.wait(mark)
        self._issued.clear()


class CudaCopies:
    """Tensor by tensor on a stream of its own, from registered host memory or from the device itself."""

    def __init__(
        self, sources: Sequence[Mapping[str, Tensor]], buffers: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self._sources, self._buffers = sources, buffers
        self._stream = torch.cuda.Stream()

    def issue(self, layer: int, buffer: int) -> None:
        with torch.cuda.stream(self._stream):
            for name, tensor in self._sources[layer].items():
                self._buffers[buffer][name].copy_(tensor, non_blocking=True)

    def synchronise(self) -> None:
        torch.cuda.synchronize()


class UmbrellaLayers:
    """Two buffers, a copy ahead, and a device that is waited for after every layer.

    `in_buffer` has the layers of each buffer; those of `cached` are computed where they lie.
    """

    in_place = False

    def __init__(
        self, in_buffer: Sequence[Sequence[Layer]], cached: Mapping[int, Layer], copies: Copies
    ) -> None:
        self._in_buffer, self._cached, self._copies = in_buffer, cached, copies
        self._held: list[int | None] = [None] * BUFFERS

    def __len__(self) -> int:
        return len(self._in_buffer[0])

    def walk(self, before_layer: BeforeLayer) -> Generator[Layer]:
        self._fetch(0)
        self._copies.synchronise()
        for index in range(len(self)):
            before_layer(index)
            self._fetch((index + 1) % len(self))
            yield self._cached.get(index) or self._in_buffer[index % BUFFERS][index]
            self._copies.synchronise()

    def _fetch(self, layer: int) -> None:
        buffer = layer % BUFFERS
        if layer not in self._cached and self._held[buffer] != layer:
            self._held[buffer] = layer
            self._copies.issue(layer, buffer)

    @property
    def split(self) -> tuple[int, int, int]:
        return len(self._cached), len(self) - len(self._cached), 0

    def close(self) -> None:
        pass

    def wait_ms(self, layer: int) -> float:  # noqa: ARG002 - it knows nothing of waits
        return 0.0

    def shrink(self) -> bool:
        return False
