"""What a configuration's models need of a device's memory, by context, slots and resident layers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.config import USUAL_SLOTS, EngineConfig
from engine.config_tables import numbered
from engine.draft.base import TreeLimits
from engine.footprint import PREFILL_ROWS, Footprint
from engine.lora.files import AdapterFiles
from engine.low_bit.form import ITEM_BYTES, SCRATCH_BYTES
from engine.offload.machine import CUDA_BYTES
from engine.offload.placement import spread
from engine.slots import draft_tier_slots
from engine.umbrella_keys import MOST_NODES

LEAST_LENGTH = 4096
"""Tokens of context below which memory is not saved unasked."""
RING_SLOTS = 3
"""One that computes, one that has come, one that comes. A third costs a layer, and evens out their times."""
LEAST_RING_SLOTS = 2

CACHE = "keys and values"
PASS_SCRATCH, WEIGHT_SCRATCH, CUDA = "scratch: a pass's own", "scratch: dequantised weights", "CUDA itself"
"""What `Demand.fixed` calls what layers need beside their weights, on every device that has some."""

Where = Literal["device", "others", "host", "disk"]
"""`others`: further devices, where there are any."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes, and where they lie. On a CPU the device's memory is the host's."""

    name: str
    where: Where
    size_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the models of a configuration need with a context of `length` tokens and so many `slots`."""

    config: EngineConfig
    target: Footprint
    drafts: tuple[Footprint, ...]
    length: int
    slots: int
    embedding_on_host: bool
    adapters_bytes: int = 0
    """Of the configuration's LoRA adapters."""

    def fixed(self) -> tuple[Part, ...]:
        """Everything but the target's layers and the ring's slots."""
        config, target, drafts, length, slots = self.config, self.target, self.drafts, self.length, self.slots
        tree = MOST_NODES if config.engine == "static" else config.tree_size
        rows = min(length, PREFILL_ROWS) + tree
        context = f"{length} tokens, {slots} slot{'s' * (slots > 1)}"
        tied = "the head is the embedding" if target.head_is_embedding else ""
        parts = [
            Part("embedding", "host" if self.embedding_on_host else "device", target.embedding_bytes),
            Part("output head, norms", "device", target.head_bytes, tied),
            Part(CACHE, "device", slots * (length + tree) * target.token_bytes, context),
        ]
        if self.adapters_bytes:
            parts.append(Part("LoRA adapters", "device", self.adapters_bytes, f"{len(config.adapters)}"))
        working = target.working_bytes(rows, tree, length)
        for name, draft in zip(numbered("draft", len(drafts)), drafts, strict=True):
            parts.append(Part(f"{name}: weights", "device", draft.weights_bytes))
            parts.append(self._draft_cache(name, draft))
            working = max(working, draft.working_bytes(rows, config.width, length))
        parts.append(Part(PASS_SCRATCH, "device", working, f"up to {rows} rows"))
        if target.form == "cuda":
            packed = sum(bool(model.architecture.quantization) for model in (target, *drafts))
            parts.append(Part(WEIGHT_SCRATCH, "device", packed * SCRATCH_BYTES))
            parts.append(Part(CUDA, "device", CUDA_BYTES, "context, libraries, rounding"))
        return tuple(parts)

    def _draft_cache(self, name: str, draft: Footprint) -> Part:
        """What a draft keeps beside every slot; the first one has the draft tier's slots, too."""
        slots, length = self.slots, self.length
        static = self.config.engine == "static"
        guesses = MOST_NODES if static else TreeLimits.of(self.config).most_grown
        quick = draft_tier_slots(slots) if draft is self.drafts[0] else 0
        tokens = slots * (length + guesses) + quick * (length + 1)
        context = f"{slots} slot{'s' * (slots > 1)}{f', and {quick} for quick answers' if quick else ''}"
        return Part(f"{name}: keys and values", "device", tokens * draft.token_bytes, context)

    def layers_bytes(self, resident: int, ring: int) -> int:
        """Of `resident` layers and as many slots of the ring as are of use to the others."""
        sizes = self.target.layer_bytes
        stay = set(spread(len(sizes), resident))
        streamed = [size for layer, size in enumerate(sizes) if layer not in stay]
        return sum(sizes) - sum(streamed) + min(ring, len(streamed)) * max(streamed, default=0)

    def needed_bytes(self, resident: int, ring: int = RING_SLOTS) -> int:
        """Of the device's memory, with so many resident layers."""
        fixed = sum(part.size_bytes for part in self.fixed() if part.where == "device")
        return fixed + self.layers_bytes(resident, ring)

    @property
    def least_bytes(self) -> int:
        """Of the device's memory, where every layer streams."""
        return self.needed_bytes(0, LEAST_RING_SLOTS)

    def most_resident(self, budget: int | None, at_most: int) -> int:
        """How many layers can stay on a device with so much room; -1 if not even the rest fits.

        The ring has fewer slots only where that brings `at_most`, or anything at all.
        """
        if budget is None or self.needed_bytes(at_most, LEAST_RING_SLOTS) <= budget:
            return at_most
        most = bisect_right(range(at_most + 1), budget, key=self.needed_bytes) - 1
        return 0 if most < 0 and self.least_bytes <= budget else most


def demands(
    config: EngineConfig, target: Footprint, drafts: tuple[Footprint, ...], *, streams: bool
) -> Iterator[Demand]:
    """What would do, the best first; `streams`: whether layers are to stream whatever room there is.

    A context that nobody stated is halved, then slots are given up, then the embedding goes to host memory,
    if it is not the output head too. Beside layers that stream that costs nothing, but passes whose weights
    are all on the device can be replayed. Raises CheckpointError if an adapter cannot be used.
    """
    can_part = target.form == "cuda" and not target.architecture.tie_embeddings
    known = target.architecture.max_position
    length = min(config.max_length or known, known)
    slots = config.slots or USUAL_SLOTS
    adapters = (AdapterFiles.open(Path(each.path), target.architecture) for each in config.adapters)
    adapters_bytes = sum(each.numbers for each in adapters) * ITEM_BYTES[target.dtype]
    demand = Demand(config, target, drafts, length, slots, streams and can_part, adapters_bytes)
    yield demand
    while config.max_length is None and demand.length > LEAST_LENGTH:
        demand = replace(demand, length=max(demand.length // 2, LEAST_LENGTH))
        yield demand
    while config.slots is None and demand.slots > 1:
        demand = replace(demand, slots=demand.slots - 1)
        yield demand
    if can_part and not streams:
        yield replace(demand, embedding_on_host=True)
