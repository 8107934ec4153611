"""A model's layers as they are stored: some stay on the device, others come through slots at every pass.

Owns their memory, on the device and on the host. Knows nothing of checkpoints, nor of what a pass computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from engine.errors import DeviceError
from engine.layers import BeforeLayer, Layer, Norms
from engine.linear import DenseLinear, Linear, fixed_rows
from engine.low_bit.choice import Kernels
from engine.low_bit.linear import QuantisedLinear
from engine.memory import free_bytes
from engine.model_config import ModelConfig
from engine.offload.arena import Arena, CudaRegistrar
from engine.offload.cuda_link import CudaLink
from engine.offload.layout import LayerLayout, fused_linears
from engine.offload.link import Link
from engine.offload.packed_file import LayerSource
from engine.offload.placement import Placement, spread
from engine.offload.ring import Ring
from engine.offload.thread_link import ThreadLink
from engine.progress import Progress

CopyInto = Callable[[int, Tensor], None]
"""Puts a layer, by its index, into a slot [at least its size] uint8."""
MakeLink = Callable[[CopyInto, Sequence[Tensor]], Link]

FEWEST_SLOTS = 2
"""One to compute with, and one to fill."""
_HOST_RESERVE_BYTES = 1 << 30
"""What is left to the rest of the system when layers move to host memory."""
_SHRINK_BY = 8
"""The part of the layers on the device that leave it at a time, as a divisor."""


class LayerBuilder:
    """Makes layers of the bytes they are stored as, wherever those lie."""

    def __init__(
        self, config: ModelConfig, norms: Sequence[Norms], kernels: Kernels | None, row_multiple: int
    ) -> None:
        """`kernels`: None if nothing is quantised."""
        self._config = config
        self._norms = norms
        self._kernels = kernels
        self._row_multiple = row_multiple

    def linears(self, layout: LayerLayout, memory: Tensor) -> dict[str, Linear]:
        """What multiplies with whatever `memory` holds at the time, by name."""
        views = layout.views(memory)
        made: dict[str, Linear] = {}
        for fused in fused_linears(self._config):
            parts = {
                name.removeprefix(f"{fused.name}."): view
                for name, view in views.items()
                if name.startswith(f"{fused.name}.")
            }
            bias = parts.pop("bias", None)
            if "weight" in parts:
                linear: Linear = DenseLinear(parts["weight"], bias)
            else:
                assert self._config.quantization is not None
                assert self._kernels is not None
                shape = fused.quantised(self._config.quantization)
                linear = QuantisedLinear(parts, shape, bias, self._kernels)
            made[fused.name] = fixed_rows(linear, self._row_multiple)
        return made

    def layer(self, index: int, linears: dict[str, Linear]) -> Layer:
        """Layer `index`, of `linears`."""
        return Layer.of(self._norms[index], linears)


class StreamedLayers:
    """The store of a model that computes with its layers as they are stored: a `LayerStore`.

    Read from `source`, now and later again what is left on disk; it is closed in the end. A link takes
    layers to the slots: `make_link`'s, or the device's own. Raises what `source` does, and what torch does
    where the device has no room.
    """

    def __init__(
        self,
        source: LayerSource,
        placement: Placement,
        device: torch.device,
        builder: LayerBuilder,
        *,
        make_link: MakeLink | None = None,
        progress: Progress,
    ) -> None:
        self._source = source
        self._device = device
        self._apart = placement.form == "cuda"
        """Whether the device's memory is another than the host's."""
        self._builder = builder
        self._make_link = make_link
        self._count = len(placement.resident) + len(placement.streamed)
        self._sizes = [source.size_bytes(layer) for layer in range(self._count)]
        try:
            self._arena = Arena(self._sizes, CudaRegistrar() if device.type == "cuda" else None)
        except BaseException:
            source.close()
            raise
        self._memory: dict[int, Tensor] = {}
        """Of the layers that stay on the device."""
        self._resident: dict[int, Layer] = {}
        self._slots: list[Tensor] = []
        self._in_slot: list[dict[int, Layer]] = []
        """By slot, and by layer that may come into it."""
        self._ring: Ring | None = None
        try:
            self._read(placement, progress)
            self._connect(placement.slots)
        except BaseException:
            self.close()
            raise

    def _read(self, placement: Placement, progress: Progress) -> None:
        resident, from_disk = set(placement.resident), set(placement.from_disk)
        passage = torch.empty(max(self._sizes) if self._apart and resident else 0, dtype=torch.uint8)
        for layer in range(self._count):
            progress(layer / self._count, f"Loading layer {layer + 1} of {self._count}")
            if layer in from_disk:
                continue
            passes = self._apart and layer in resident
            host = passage[: self._sizes[layer]] if passes else self._arena.add(layer)
            self._source.read_into(layer, host)
            if layer in resident:
                memory = _device_memory(len(host), self._device).copy_(host) if passes else host
                self._memory[layer] = memory
                linears = self._builder.linears(self._source.layout(layer), memory)
                self._resident[layer] = self._builder.layer(layer, linears)
        progress(1.0, "Loading layers")

    def _leave(self, layer: int) -> None:
        """Have `layer` stay on the device no longer: its bytes go to host memory if that has room."""
        del self._resident[layer]
        memory = self._memory.pop(layer)
        if not self._apart:
            self._arena.drop(layer)  # Where the host is the device, only the disk is left.
        elif (free_bytes() or 0) > _HOST_RESERVE_BYTES + len(memory):
            self._arena.add(layer).copy_(memory)

    def _connect(self, slots: int) -> None:
        """Have all layers that are not on the device come through `slots` slots, or those that there are."""
        streamed = [layer for layer in range(self._count) if layer not in self._resident]
        if not streamed:
            return
        if not self._slots:
            size = max(self._sizes[layer] for layer in streamed)
            self._slots = [_device_memory(size, self._device) for _ in range(slots)]
        by_layout = [dict[LayerLayout, dict[str, Linear]]() for _ in self._slots]
        self._in_slot = [{} for _ in self._slots]
        for layer in streamed:
            layout = self._source.layout(layer)
            for slot, memory in enumerate(self._slots):
                linears = by_layout[slot].get(layout)
                if linears is None:
                    linears = by_layout[slot][layout] = self._builder.linears(layout, memory)
                self._in_slot[slot][layer] = self._builder.layer(layer, linears)
        self._ring = Ring(streamed, len(self._slots), self._link(streamed))

    def _link(self, streamed: Sequence[int]) -> Link:
        copy_into = partial(_copy_into, self._arena, self._source)
        if self._make_link is not None:
            return self._make_link(copy_into, self._slots)
        if self._device.type != "cuda":
            return ThreadLink(copy_into, self._slots)
        host = {layer: self._arena[layer] for layer in streamed if layer in self._arena}
        return CudaLink(host, self._slots, self._device, self._source, registered=not self._arena.refused)

    def _disconnect(self) -> None:
        ring, self._ring, self._in_slot = self._ring, None, []
        if ring is not None:
            ring.close()
        if self._device.type == "cuda":
            # What was issued may still read the slots, and the next link knows nothing of it.
            torch.cuda.synchronize(self._device)

    def __len__(self) -> int:
        return self._count

    @property
    def in_place(self) -> bool:
        """Whether every layer stays at one address for good."""
        return self._ring is None

    @property
    def split(self) -> tuple[int, int, int]:
        """See `LayerStore.split`."""
        stay = len(self._resident)
        on_host = sum(layer in self._arena for layer in range(self._count) if layer not in self._resident)
        return stay, on_host, self._count - stay - on_host

    def walk(self, before_layer: BeforeLayer) -> Generator[Layer]:
        """See `LayerStore.walk`."""
        done = 0
        try:
            for index in range(self._count):
                before_layer(index)
                # Asked for anew each time: what ran within `before_layer` may have shrunk what stays here.
                resident, ring = self._resident.get(index), self._ring
                if resident is not None:
                    yield resident
                    if ring is not None:
                        ring.keep_pace()
                elif ring is not None:
                    slot = ring.take(index)
                    try:
                        yield self._in_slot[slot][index]
                    finally:
                        ring.release(index)
                else:
                    raise DeviceError("The model is closed; load it again.")
                done = index + 1
        except DeviceError:
            done = self._count  # To fetch at once what has just failed would fail the next walk too.
            raise
        finally:
            if done < self._count and self._ring is not None:
                self._ring.rewind()

    def wait_ms(self, layer: int) -> float:
        """See `LayerStore.wait_ms`."""
        return 0.0 if self._ring is None or layer in self._resident else self._ring.left_ms(layer)

    def shrink(self) -> bool:
        """See `LayerStore.shrink`. Layers go to host memory, or to the disk where that has no room either."""
        new_slots = 0 if self._slots else FEWEST_SLOTS
        fitting = [layer for layer, memory in sorted(self._memory.items()) if self._fits_a_slot(memory)]
        leaving = new_slots + -(-len(fitting) // _SHRINK_BY)
        if not new_slots < leaving <= len(fitting):
            return False
        self._disconnect()
        for place in spread(len(fitting), leaving):
            self._leave(fitting[place])
        self._connect(FEWEST_SLOTS)
        return True

    def _fits_a_slot(self, memory: Tensor) -> bool:
        """Whether a layer of that size could stream; one that is not quantised may be larger than others."""
        return not self._slots or len(memory) <= len(self._slots[0])

    def close(self) -> None:
        """See `LayerStore.close`."""
        with suppress(RuntimeError):  # A device that is lost cannot be waited for.
            self._disconnect()
        self._resident, self._memory, self._slots = {}, {}, []
        self._arena.close()
        self._source.close()


def _copy_into(arena: Arena, source: LayerSource, layer: int, slot: Tensor) -> None:
    if layer in arena:
        host = arena[layer]
        slot[: len(host)].copy_(host)
    else:
        source.read_into(layer, slot[: source.size_bytes(layer)])


def _device_memory(size_bytes: int, device: torch.device) -> Tensor:
    # Links fill it from threads that are not in inference mode, and could not change a tensor of that mode.
    with torch.inference_mode(False):
        return torch.empty(size_bytes, dtype=torch.uint8, device=device)
