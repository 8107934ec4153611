"""Streaming to a GPU: a 70B's block, repeated, under a cap of its memory. Unverified on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.offload import caps, wall
from benchmarks.offload.acceptance import Acceptance
from benchmarks.offload.caps import NOTHING_STREAMS, Planned
from benchmarks.offload.contestants import CudaCopies, UmbrellaLayers
from benchmarks.offload.shapes import GIB, LLAMA_70B
from benchmarks.offload.synthetic import Synthetic
from benchmarks.offload.umbrella import BUFFERS
from benchmarks.offload.wall import Effort, Scaled
from engine.layers import ResidentLayers
from engine.model import Transformer
from engine.offload.placement import Placement
from engine.offload.streamed import StreamedLayers
from engine.progress import untold

MOST_ROWS = 1024
"""Of the passes that are timed by their rows."""
COPIES = 20
"""Of a layer, to see how fast a plain copy is."""


class Gpu:
    """The bench of a machine with a CUDA device."""

    def __init__(self, model: Synthetic) -> None:
        self.model = model
        self._device = torch.device("cuda")
        self._pinned = model.source.block.pin_memory()
        self.bytes_per_s = self._plain_copy()

    def _plain_copy(self) -> float:
        target = torch.empty_like(self._pinned, device=self._device)
        best_s = float("inf")
        for _ in range(COPIES):
            torch.cuda.synchronize()
            began = time.perf_counter()
            target.copy_(self._pinned, non_blocking=True)
            torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - began)
        return self._pinned.nbytes / best_s

    @property
    def resident(self) -> Transformer:
        """All layers in one place: they are the same one."""
        return self.model.whole(ResidentLayers(self.model.layers(self.model.source.block.to(self._device))))

    @contextmanager
    def ours(self, placement: Placement) -> Generator[Transformer]:
        """With the engine's own arena, one place for every layer, and its own link."""
        model = self.model
        with closing(
            StreamedLayers(model.source, placement, self._device, model.builder, progress=untold)
        ) as store:
            yield model.whole(store)

    @contextmanager
    def umbrella(self, cached: Sequence[int]) -> Generator[Transformer]:
        """Cached layers are copied from device memory, tensor by tensor as the others.

        By 14 copies where UMbreLLa has 23: layers of one input lie side by side here.
        """
        model, layout = self.model, self.model.source.of_layer
        buffers = [torch.empty_like(self._pinned, device=self._device) for _ in range(BUFFERS)]
        at_home = layout.views(model.source.block.to(self._device))
        away = layout.views(self._pinned)
        sources: list[Mapping[str, Tensor]] = [
            at_home if layer in cached else away for layer in range(model.config.num_layers)
        ]
        copies = CudaCopies(sources, [layout.views(buffer) for buffer in buffers])
        yield model.whole(UmbrellaLayers([model.layers(buffer) for buffer in buffers], {}, copies))

    @contextmanager
    def accelerate(self, resident: Sequence[int]) -> Generator[Transformer]:
        """From host memory that is not registered, as accelerate keeps it."""
        from benchmarks.offload.accelerated import accelerated

        away = self.model.source.of_layer.views(self.model.source.block)
        yield self.model.whole(accelerated(self.model, resident, self._device, away.__getitem__))


def on_gpu(
    cards: Sequence[Planned],
    acceptance: Acceptance,
    effort: Effort,
    scaled: Callable[[Planned, Acceptance], Scaled],
    told: Callable[[str], None],
) -> dict[str, object]:
    """The document's figures, with the device's memory capped as each card's is."""
    gpu = torch.device("cuda")
    bench = Gpu(Synthetic.of(LLAMA_70B, gpu))
    found: dict[str, object] = {}
    for planned in cards:
        told(f"{planned.card.gb} GB")
        share = min(1.0, planned.card.gb * GIB / torch.cuda.mem_get_info(gpu)[1])
        torch.cuda.set_per_process_memory_fraction(share)  # pyright: ignore[reportUnknownMemberType]
        virtual = caps.figures(planned, acceptance, None)
        if not planned.plan.target.streamed:
            nulls = dict.fromkeys(caps.HEADLINES)
            found[str(planned.card.gb)] = {**nulls, "null_because": NOTHING_STREAMS, "virtual": virtual}
            continue
        with_rows = replace(effort, rounds=1, rows=planned.config.tree_size, most_rows=MOST_ROWS)
        measured = wall.figures(bench, scaled(planned, acceptance), with_rows)
        found[str(planned.card.gb)] = measured | {"virtual": virtual}
        torch.cuda.empty_cache()
    return {
        "link": torch.cuda.get_device_name(gpu),
        "clock": "wall",
        "plain_copy_gb_per_s": round(bench.bytes_per_s / 1e9, 2),
        "caps": found,
        "scale": {"wall": f"{LLAMA_70B.name}, one random block repeated, tree_size rows"},
    }
