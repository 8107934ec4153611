"""Which layers of a model stay on the device, and which stream. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.low_bit.form import DTypeName, Form
from engine.offload.stages import Stage


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the layers of one model lie. What a memory plan decides, and the loader does."""

    form: Form
    """Of INT4 weights: the kind of device that multiplies."""
    dtype: DTypeName
    """Of everything else."""
    resident: tuple[int, ...]
    """Layers that stay in the device's memory, ascending."""
    streamed: tuple[int, ...]
    """All other layers, ascending: they come through the slots at every pass."""
    from_disk: tuple[int, ...] = ()
    """Those of `streamed` for which host memory has no room either: they are read from disk at every pass."""
    slots: int = 0
    """Device buffers that streamed layers share; 0 if none is streamed."""
    embedding_on_host: bool = False
    stages: tuple[Stage, ...] = ()
    """Of layers that are spread over several devices, and none of which streams; () for those on one."""

    @staticmethod
    def whole(num_layers: int, form: Form, dtype: DTypeName) -> Placement:
        """Everything on the device."""
        return Placement(form, dtype, tuple(range(num_layers)), ())

    def without_disk(self) -> Placement:
        """The same with all streamed layers in host memory."""
        return replace(self, from_disk=())


def spread(num_layers: int, resident: int) -> tuple[int, ...]:
    """`resident` of `num_layers` layers, evenly among the others.

    So the device has work while a layer comes, and no run of resident layers leaves the link idle.
    """
    return tuple(sorted({(2 * index + 1) * num_layers // (2 * resident) for index in range(resident)}))
