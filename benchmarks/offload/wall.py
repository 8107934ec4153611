"""Streaming on a real clock: a real model and a real ring, over a simulated link or a GPU's own.

Ours, UMbreLLa's schedule and accelerate's hooks run the same layers through the same kernels in one process,
and the link is equally fast for all. A simulated one takes no time per copy, so there UMbreLLa's habit
of copying tensor by tensor costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.offload.contestants import LinkCopies, UmbrellaLayers
from benchmarks.offload.synthetic import DTYPES, Synthetic
from benchmarks.offload.umbrella import BUFFERS
from benchmarks.report import quartiles
from engine.costs import measure
from engine.layers import Layer, ResidentLayers
from engine.model import Block, Transformer
from engine.offload.link import Link
from engine.offload.placement import Placement, spread
from engine.offload.prediction import Rates, schedule
from engine.offload.streamed import CopyInto, StreamedLayers
from engine.offload.thread_link import ThreadLink
from engine.progress import untold

CACHED = 16
"""Tokens in the cache while passes are timed."""


class Stopped(Exception):
    """A pass that was cancelled."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int
    """In which all take their turns, so that a disturbance hits them alike."""
    passes: int
    """Of each in a round, after one that is not counted."""
    cancels: int
    rows: int
    most_rows: int = 0
    """Of the passes that are timed by their rows; 0: none are."""


def timed_passes(model: Transformer, effort: Effort, draft_ms: float = 0.0) -> list[float]:
    """Milliseconds from a pass's beginning to that of the next, with a pause of `draft_ms` between them."""
    cache = model.new_cache(CACHED + effort.rows)

    def timed(block: Block, rows: Sequence[int]) -> float:
        began = time.perf_counter()
        model.forward(block, cache, rows, _nothing)
        _settle(model)
        if draft_ms:
            time.sleep(draft_ms / 1000)  # A draft model that computes for so long, and leaves the link alone.
        return 1000 * (time.perf_counter() - began)

    timed(Block.chain([1] * CACHED), [])
    cache.keep(range(CACHED), [1] * CACHED)
    return [timed(_tree(effort.rows), range(effort.rows)) for _ in range(effort.passes + 1)][1:]


def cancels_ms(model: Transformer, effort: Effort) -> list[float]:
    """Milliseconds from cancels, spread over a pass, until the device is idle."""
    cache = model.new_cache(effort.rows)
    block = _tree(effort.rows)
    samples: list[float] = []
    for number in range(effort.cancels):
        at = (2 * number + 1) * (model.num_layers - 1) // (2 * effort.cancels)
        asked = 0.0

        def before_layer(layer: int, at: int = at) -> None:
            nonlocal asked
            if layer == at:
                asked = time.perf_counter()
            elif layer > at:
                raise Stopped

        try:
            model.forward(block, cache, [0], before_layer)
        except Stopped:
            _settle(model)
            samples.append(1000 * (time.perf_counter() - asked))
    return samples


def _tree(rows: int) -> Block:
    return Block([1] * rows, [-1, *(row // 2 for row in range(rows - 1))])


def _settle(model: Transformer) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def _nothing(_layer: int) -> None: ...


class Bench(Protocol):
    """A model, a device, and three ways to get its layers there."""

    @property
    def model(self) -> Synthetic: ...

    @property
    def bytes_per_s(self) -> float:
        """Of the link: what a plain copy reaches."""
        ...

    @property
    def resident(self) -> Transformer:
        """With all its layers on the device."""
        ...

    def ours(self, placement: Placement) -> AbstractContextManager[Transformer]:
        """The engine's own store, with its ring."""
        ...

    def umbrella(self, cached: Sequence[int]) -> AbstractContextManager[Transformer]:
        """UMbreLLa's schedule, with `cached` layers on the device."""
        ...

    def accelerate(self, resident: Sequence[int]) -> AbstractContextManager[Transformer]:
        """Hooks of accelerate on all layers that are not `resident`."""
        ...


class SimulatedLink:
    """The bench of a machine without a GPU: a thread copies, no faster than asked."""

    def __init__(self, model: Synthetic, bytes_per_s: float) -> None:
        self.model, self.bytes_per_s = model, bytes_per_s
        self._cpu = torch.device("cpu")

    @property
    def resident(self) -> Transformer:
        return self.model.whole(
            ResidentLayers(list(self._at_home(range(self.model.config.num_layers)).values()))
        )

    @contextmanager
    def ours(self, placement: Placement) -> Generator[Transformer]:
        def make_link(copy_into: CopyInto, slots: Sequence[Tensor]) -> Link:
            return ThreadLink(copy_into, slots, self.bytes_per_s)

        model = self.model
        store = StreamedLayers(
            model.source, placement, self._cpu, model.builder, make_link=make_link, progress=untold
        )
        with closing(store):
            yield model.whole(store)

    @contextmanager
    def umbrella(self, cached: Sequence[int]) -> Generator[Transformer]:
        # Cached layers are not copied: that would cost a CPU what it costs no GPU.
        model = self.model
        buffers = [torch.empty(model.source.size_bytes(0), dtype=torch.uint8) for _ in range(BUFFERS)]
        with closing(ThreadLink(model.source.read_into, buffers, self.bytes_per_s)) as link:
            in_buffer = [model.layers(buffer) for buffer in buffers]
            yield model.whole(UmbrellaLayers(in_buffer, self._at_home(cached), LinkCopies(link)))

    @contextmanager
    def accelerate(self, resident: Sequence[int]) -> Generator[Transformer]:
        from benchmarks.offload.accelerated import accelerated

        parts = self.model.source.of_layer.views(self.model.source.block)
        names = list(parts)
        buffers = [torch.empty(parts[name].nbytes, dtype=torch.uint8) for name in names]

        def copy_into(index: int, buffer: Tensor) -> None:
            buffer.copy_(parts[names[index]].view(torch.uint8).flatten())

        with closing(ThreadLink(copy_into, buffers, self.bytes_per_s)) as link:

            def fetch(name: str) -> Tensor:
                index = names.index(name)
                link.wait(link.copy(index, index, None))
                return buffers[index].view(parts[name].dtype).view(parts[name].shape)

            yield self.model.whole(accelerated(self.model, resident, self._cpu, fetch))

    def _at_home(self, layers: Sequence[int]) -> dict[int, Layer]:
        every = self.model.layers(self.model.source.block)
        return {layer: every[layer] for layer in layers}


@dataclass(frozen=True, slots=True)
class Scaled:
    """A larger model's placement and drafting, brought to the scale of a bench."""

    resident_share: float
    """Of the layers, how many stay on the device."""
    cached_share: float
    """How many UMbreLLa keeps there."""
    draft_copies: float
    """Drafting before a pass, and how long it takes: as long as so many copies of a layer."""
    umbrella_draft_copies: float
    slots: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Milliseconds of passes, and of cancels."""

    at_home: list[float]
    """With all layers on the device."""
    alone: list[float]
    """Ours, without drafting between them."""
    ours: list[float]
    umbrella: list[float]
    accelerate: list[float]
    """Empty where there is no accelerate."""
    cancels: list[float]
    by_rows: dict[str, float]
    """Of passes by their rows, as the engine times them when it loads a model."""


def take_turns(bench: Bench, placement: Placement, scaled: Scaled, effort: Effort) -> Samples:
    """Measure all of it."""
    copy_ms = 1000 * bench.model.source.size_bytes(0) / bench.bytes_per_s
    draft_ms, umbrella_draft_ms = scaled.draft_copies * copy_ms, scaled.umbrella_draft_copies * copy_ms
    found = Samples([], [], [], [], [], [], {})
    with ExitStack() as opened:
        resident, ours = bench.resident, opened.enter_context(bench.ours(placement))
        cached = range(round(scaled.cached_share * bench.model.config.num_layers))
        umbrella, accelerate = opened.enter_context(bench.umbrella(cached)), None
        if find_spec("accelerate"):
            accelerate = opened.enter_context(bench.accelerate(range(len(placement.resident))))
        for _ in range(effort.rounds):
            found.at_home.extend(timed_passes(resident, effort))
            found.alone.extend(timed_passes(ours, effort))
            found.ours.extend(timed_passes(ours, effort, draft_ms))
            found.umbrella.extend(timed_passes(umbrella, effort, umbrella_draft_ms))
            if accelerate:
                found.accelerate.extend(timed_passes(accelerate, effort, draft_ms))
        found.cancels.extend(cancels_ms(ours, effort))
        if effort.most_rows:
            table = measure(ours, effort.most_rows)
            found.by_rows.update(zip(map(str, table.rows), table.times_ms, strict=True))
    return found


def figures(bench: Bench, scaled: Scaled, effort: Effort) -> dict[str, object]:
    """What one placement comes to on `bench`, and what the plan's own arithmetic says of it."""
    layers, layer_bytes = bench.model.config.num_layers, bench.model.source.size_bytes(0)
    placement = placed(bench, layers, scaled)
    took = take_turns(bench, placement, scaled, effort)
    copy_ms = 1000 * layer_bytes / bench.bytes_per_s
    layer_ms, draft_ms = median(took.at_home) / layers, scaled.draft_copies * copy_ms
    rates = Rates(bench.bytes_per_s, bench.bytes_per_s, layer_ms, draft_ms=draft_ms)
    predicted = schedule(placement, layers * [layer_bytes], rates)
    ours_ms, alone_ms = median(took.ours), median(took.alone)
    return {
        "pass_over_bound": round(alone_ms / predicted.bound_ms, 3),
        "umbrella_schedule_over_ours": round(median(took.umbrella) / ours_ms, 3),
        "accelerate_over_ours": round(median(took.accelerate) / ours_ms, 3) if took.accelerate else None,
        "link_utilisation": round(predicted.stream_ms / ours_ms, 3),
        "achieved_over_plain_copy": round(predicted.stream_ms / alone_ms, 3),
        "exposed_draft_ms": round(ours_ms - alone_ms, 1),
        "cancel_to_idle_ms": round(max(took.cancels), 1),
        "cancel_to_idle_layers": round(max(took.cancels) / copy_ms, 2),
        "resident_layers": len(placement.resident),
        "streamed_layers": len(placement.streamed),
        "copy_ms": round(copy_ms, 2),
        "layer_ms": round(layer_ms, 2),
        "draft_ms": round(draft_ms, 1),
        "pass_ms": quartiles(took.ours, 1),
        "pass_without_drafting_ms": quartiles(took.alone, 1),
        "umbrella_schedule_pass_ms": quartiles(took.umbrella, 1),
        "accelerate_pass_ms": quartiles(took.accelerate, 1) if took.accelerate else None,
        "cancels_ms": quartiles(took.cancels, 1),
        "pass_ms_by_rows": {rows: round(ms, 1) for rows, ms in took.by_rows.items()},
        "predicted_pass_ms": round(predicted.pass_ms, 1),
        "prediction_error": round(predicted.pass_ms / ours_ms - 1, 3),
    }


def placed(bench: Bench, layers: int, scaled: Scaled) -> Placement:
    """As many layers on the device as a larger model keeps there, evenly among the others."""
    count = min(round(layers * scaled.resident_share), layers - 1)
    resident = spread(layers, count) if count else ()
    streamed = tuple(layer for layer in range(layers) if layer not in set(resident))
    model = bench.model
    return Placement(model.form, DTYPES[model.form], resident, streamed, slots=scaled.slots)
