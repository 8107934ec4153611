"""A model's layers, brought to where a placement has them: a `LayerStore` of the kind that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import torch

from engine.checkpoint import Checkpoint
from engine.footprint import stays_packed
from engine.kept import folder_for
from engine.layers import Layer, LayerStore, ResidentLayers
from engine.low_bit.choice import Kernels
from engine.memory import give_back
from engine.offload.packed_file import LayerSource, open_source
from engine.offload.placement import Placement
from engine.offload.streamed import LayerBuilder, MakeLink, StreamedLayers
from engine.progress import Progress
from engine.weights import WeightReader


def load_layers(
    reader: WeightReader,
    placement: Placement,
    source: LayerSource | None,
    make_link: MakeLink | None,
    progress: Progress,
) -> LayerStore:
    """The layers of `reader`'s checkpoint, on its device or spread over those of the `placement`.

    `source` and `make_link` are `Transformer.load`'s. Raises what that does.
    """
    config, devices = reader.checkpoint.config, stage_devices(placement)
    readers = [reader.on(device) for device in devices] or [reader] * config.num_layers
    if not placement.streamed and not stays_packed(config, placement.form, placement.dtype):
        return _plain_layers(readers, progress)
    norms = [reader.norms(layer) for layer, reader in enumerate(readers)]
    if source is None:
        source = _source(reader.checkpoint, placement, lambda part, what: progress(part / 2, what))

    def told(part: float, what: str) -> None:
        progress((1 + part) / 2, what)

    def builder(device: torch.device) -> LayerBuilder:
        how = config.quantization
        kernels = Kernels.of(placement.form, device, reader.dtype, how.bits) if how else None
        return LayerBuilder(config, norms, kernels, reader.row_multiple)

    if not devices:
        return StreamedLayers(
            source, placement, reader.device, builder(reader.device), make_link=make_link, progress=told
        )
    builders = {device: builder(device) for device in set(devices)}
    with closing(source):
        return _packed_layers(source, devices, [builders[device] for device in devices], told)


def stage_devices(placement: Placement) -> tuple[torch.device, ...]:
    """By layer, the device that it is on; () if all are on one."""
    return tuple(torch.device(stage.device) for stage in placement.stages for _ in range(stage.layers))


def _source(checkpoint: Checkpoint, placement: Placement, progress: Progress) -> LayerSource:
    source = open_source(
        checkpoint,
        placement.form,
        placement.dtype,
        progress,
        cache=folder_for("packed"),
        from_disk=bool(placement.from_disk),
    )
    give_back()  # What packing has used would stay beside the layers.
    return source


def _plain_layers(readers: Sequence[WeightReader], progress: Progress) -> ResidentLayers:
    layers: list[Layer] = []
    for index, reader in enumerate(readers):
        progress(index / len(readers), f"Loading layer {index + 1} of {len(readers)}")
        layers.append(reader.layer(index))
    progress(1.0, "Loading layers")
    return ResidentLayers(layers)


def _packed_layers(
    source: LayerSource, devices: Sequence[torch.device], builders: Sequence[LayerBuilder], progress: Progress
) -> ResidentLayers:
    """All layers as they are stored, each on its device."""
    passage = torch.empty(max(map(source.size_bytes, range(len(devices)))), dtype=torch.uint8)
    layers: list[Layer] = []
    for index, (device, builder) in enumerate(zip(devices, builders, strict=True)):
        progress(index / len(devices), f"Loading layer {index + 1} of {len(devices)}")
        host = passage[: source.size_bytes(index)]
        source.read_into(index, host)
        memory = host.to(device, copy=True)
        layers.append(builder.layer(index, builder.linears(source.layout(index), memory)))
    progress(1.0, "Loading layers")
    return ResidentLayers(layers)
