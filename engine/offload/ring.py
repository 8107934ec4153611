"""A ring of device slots through which a model's streamed layers go, in the order in which a pass needs them.

Every pass needs the same layers in the same order, so what to fetch next is always known: the layers that
come after the one in use, and after the last one the first ones of the next pass. The link is therefore never
idle while a slot is free, not between two passes either.

Decides what is copied where and when, and nothing else: moving bytes is the link's business. Torch-free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.offload.link import Link, Mark

LAYERS_AHEAD = 1
"""Layers that may be issued while the one before them is still computed: enough to keep a device busy, and
few, for whoever cancels waits for them."""


@dataclass(slots=True)
class _Slot:
    layer: int | None = None
    """What it holds, or will once `ready` is reached."""
    ready: Mark | None = None
    free: Mark | None = None
    """Reached when what was computed with an earlier content is done."""
    taken: bool = False


class Ring:
    """Holds some of `layers`, the next ones to be needed, in `slots` slots that `link` copies into.

    `layers` are in the order of a pass. The first ones are fetched at once. Owns `link`. Used by one thread.

    A pass takes and releases one layer after the other. It may take another than the expected one, for
    instance because a second pass runs inside the first: what it then needs is fetched from there on.
    """

    def __init__(self, layers: Sequence[int], slots: int, link: Link) -> None:
        if not layers or slots < 1:
            raise ValueError("a ring has at least one layer and one slot")
        self._layers = tuple(layers)
        self._places = {layer: place for place, layer in enumerate(self._layers)}
        self._slots = [_Slot() for _ in range(slots)]
        self._link = link
        self._next = 0
        """Place of the layer that is expected to be taken next; that after the last is the first again."""
        self._issued: deque[Mark] = deque()
        """Ends of the layers that were issued last."""
        self._fetch()

    def take(self, layer: int) -> int:
        """The slot with `layer`. What is computed from here on sees it, until `release`.

        Raises DeviceError if it could not be copied. It is not taken then, and all that was fetched is
        fetched anew when it is needed.
        """
        slot = self._expect(layer)
        ready = slot.ready
        assert ready is not None
        try:
            self._link.wait(ready)
        except BaseException:
            for other in self._slots:
                if not other.taken:
                    other.layer = None
            raise
        slot.taken = True
        return self._slots.index(slot)

    def release(self, layer: int) -> None:
        """All that needs `layer`, which was taken, has been issued: its slot serves again once that is done.

        Keeps pace, as `keep_pace` does.
        """
        slot = self._holding(layer)
        if slot is None or not slot.taken:
            raise ValueError("a layer is released that was not taken")
        slot.taken = False
        slot.free = self._link.mark()
        self._next = self._places[layer] + 1
        self._fetch()
        self._keep_pace(slot.free)

    def keep_pace(self) -> None:
        """To be called when a layer has been issued that is not of the ring.

        Waits until the device is at most `LAYERS_AHEAD` layers behind, so that what is decided between two
        layers, a cancel above all, takes effect soon.
        """
        self._keep_pace(self._link.mark())

    def rewind(self) -> None:
        """The pass is over, wherever it stood: begin to fetch the first layers of the next one."""
        self._next = 0
        self._fetch()

    def left_ms(self, layer: int) -> float:
        """How long the device, once it has done all that was issued, has to wait for `layer`.

        0.0 for one that is there. Otherwise the caller itself first waits until the device has caught up, so
        that other work that begins now costs nothing for so long.
        """
        slot = self._expect(layer)
        ready = slot.ready
        assert ready is not None
        if self._issued and self._link.left_ms(ready) > 0.0:
            self._link.catch_up(self._issued[-1])
        return self._link.left_ms(ready)

    def close(self) -> None:
        """End all copying. The ring is of no use any more."""
        self._link.close()

    def _keep_pace(self, end: Mark) -> None:
        self._issued.append(end)
        if len(self._issued) > LAYERS_AHEAD:
            self._link.catch_up(self._issued.popleft())

    def _expect(self, layer: int) -> _Slot:
        """The slot in which `layer` is or will be; it and what follows it are fetched where they are not."""
        self._next = self._places[layer]
        slot = self._holding(layer)
        if slot is None:
            self._fetch()
            slot = self._holding(layer)
        if slot is None:
            raise RuntimeError("a layer is taken while all slots are in use")
        return slot

    def _holding(self, layer: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.layer == layer), None)

    def _fetch(self) -> None:
        """Have every slot that is not in use hold one of the layers that are needed next."""
        ahead = range(self._next, self._next + len(self._slots))
        wanted = [self._layers[place % len(self._layers)] for place in ahead]
        spare = deque(
            index for index, slot in enumerate(self._slots) if not slot.taken and slot.layer not in wanted
        )
        for layer in wanted:
            if spare and self._holding(layer) is None:
                index = spare.popleft()
                slot = self._slots[index]
                slot.layer, slot.ready = layer, self._link.copy(layer, index, slot.free)
