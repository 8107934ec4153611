"""The memory plan: what of a configuration's models goes where, from headers alone. Torch-free.

What is printed by ``umbrella-engine plan`` is what the loader does: both take it from `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.footprint import footprints
from engine.low_bit.form import Form
from engine.memory import gib
from engine.offload.demand import (
    CACHE,
    CUDA,
    LEAST_LENGTH,
    LEAST_RING_SLOTS,
    PASS_SCRATCH,
    RING_SLOTS,
    WEIGHT_SCRATCH,
    Demand,
    Part,
    Where,
    demands,
)
from engine.offload.machine import Machine
from engine.offload.placement import Placement, spread
from engine.offload.stages import Stage, split


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where everything goes. Sizes in bytes; a budget is None where it is not known, and so no bound."""

    form: Form
    target: Placement
    drafts: tuple[Placement, ...]
    """Of each draft model, always wholly resident."""
    max_length: int
    slots: int
    """Prompts whose keys and values stay cached."""
    layer_bytes: tuple[int, ...]
    """Of each of the target's layers, as it streams."""
    parts: tuple[Part, ...]
    device_budget: int | None
    host_budget: int | None

    def bytes_at(self, where: Where) -> int:
        """All that lies there."""
        return sum(part.size_bytes for part in self.parts if part.where == where)

    @property
    def pass_bytes(self) -> int:
        """What streams at every pass, from host memory and disk together."""
        return sum(self.layer_bytes[layer] for layer in self._moving(self.target.streamed))

    @property
    def disk_pass_bytes(self) -> int:
        """What is read from disk at every pass."""
        return sum(self.layer_bytes[layer] for layer in self._moving(self.target.from_disk))

    def _moving(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """`layers`, unless the slots have room for all that streams: then it comes once, and stays."""
        return layers if len(self.target.streamed) > self.target.slots else ()


def plan(config: EngineConfig, machine: Machine) -> MemoryPlan:
    """Where the models of `config` go on `machine`.

    All layers are resident if they can be. To that end a `max_length` that nobody stated is halved, from
    what the target knows down to LEAST_LENGTH, then `slots` fall from USUAL_SLOTS to 1, then the embedding
    goes to host memory: a shorter context costs little, a layer that streams costs its share of every pass.
    If layers still do not fit, they are spread over all GPUs, if there are several, and those hold them all.
    If not, as many stay as there is room for beside the ring's slots, or `num_cache_layers`. The others lie
    in host memory, and those for which that has no room on disk.

    On a CPU there is nowhere to stream from but the disk, so `offload` = true and `num_cache_layers` mean
    nothing there. Raises CheckpointError if a checkpoint is missing or not whole, and ConfigError, saying
    what would fit, if there is no such plan.
    """
    target, drafts = footprints(config, machine.form)
    layers = target.architecture.num_layers
    ideal = _wanted_layers(config, machine.form, layers)
    budget = machine.device_budget(config)
    choices = list(demands(config, target, drafts, streams=ideal < layers))
    demand = next((each for each in choices if each.most_resident(budget, ideal) == ideal), choices[-1])
    most = demand.most_resident(budget, ideal)
    stated = bool(machine.others) and config.device != "auto"
    if most == layers and not stated:
        return _resident(demand, machine)
    if machine.others and ideal == layers:
        over_all = next(filter(None, (_spread(each, machine) for each in choices)), None)
        if over_all is not None:
            return over_all
    if stated:
        raise ConfigError(
            f"{config.model} finds no room on {config.device} with all its layers, and layers stream to one "
            "device only. Name one device, or leave it at auto."
        )
    _require_room(demand, budget, most, ideal)
    return _streaming(demand, machine, most)


def _wanted_layers(config: EngineConfig, form: Form, layers: int) -> int:
    """How many layers are to stay on the device, if there is room. Raises ConfigError."""
    if form == "cpu" or config.offload is False:
        return layers
    stated = config.num_cache_layers
    if config.offload and stated is not None and stated >= layers:
        raise ConfigError(
            f"offload = true streams at least one layer, but num_cache_layers = {stated} keeps all {layers} "
            "of the target on the device: leave offload at auto, or lower num_cache_layers"
        )
    return min(layers - 1 if config.offload else layers, layers if stated is None else stated)


def _require_room(demand: Demand, budget: int | None, most: int, ideal: int) -> None:
    """Raise ConfigError, saying what would do, if the most layers that can stay are too few."""
    config, target = demand.config, demand.target
    every = len(target.layer_bytes)
    if budget is None or most == ideal < every:
        return
    memory, bound = ("device memory", "max_vram") if target.form == "cuda" else ("memory", "max_ram")
    why = f"{bound} = {getattr(config, bound)}" if getattr(config, bound) else "what is free, less a reserve"
    there = f"there are {gib(budget)} of {memory} ({why})"
    if most < 0:
        needed = f"needs {gib(demand.least_bytes)} even if every layer streams"
        advice = _what_would_fit(demand, budget)
    elif config.offload is False:
        needed = f"needs {gib(demand.needed_bytes(every))} with offload = false"
        advice = f"Leave offload at auto to stream {every - most} of {every} layers"
    elif target.architecture.quantization is not None and not target.stays_packed:
        needed = f"needs {gib(demand.needed_bytes(every))}, for its weights are dequantised to {target.dtype}"
        kept = "Leave dtype at auto, which keeps them as they are"
        advice = f"Close other programs, or raise {bound}" if config.dtype == "auto" else kept
    elif target.form == "cuda" and config.num_cache_layers is not None:
        needed = f"needs {gib(demand.needed_bytes(ideal))} with num_cache_layers = {config.num_cache_layers}"
        advice = f"At most {most} layers can stay there: lower it, or leave it at auto"
    else:
        return
    raise ConfigError(f"{config.model} does not fit: it {needed}, and {there}. {advice}.")


def _what_would_fit(demand: Demand, budget: int) -> str:
    """Advice: the first of what can be changed with which the device's memory would do."""
    config = demand.config

    def fits(changed: Demand) -> bool:
        return changed.least_bytes <= budget

    if fits(replace(demand, slots=1)):
        return "slots = 1 would fit"
    length = demand.length // 2
    while length >= LEAST_LENGTH // 4:
        if fits(replace(demand, slots=1, length=length)):
            return f"max_length = {length}{' with slots = 1' * (demand.slots > 1)} would fit"
        length //= 2
    if config.tree_size > 64 and fits(replace(demand, config=replace(config, tree_size=64))):
        return "tree_size = 64 would fit"
    if demand.drafts and fits(replace(demand, drafts=())):
        return "A smaller draft_model, or none, would fit"
    return "Choose a smaller model"


def _resident(demand: Demand, machine: Machine) -> MemoryPlan:
    """All of it on the device."""
    sizes = demand.target.layer_bytes
    note = f"all {len(sizes)}, {_megabytes(max(sizes))} each"
    parts = (*demand.fixed(), Part("resident layers", "device", sum(sizes), note))
    if demand.embedding_on_host:
        _host_room(demand, machine)
    whole = Placement.whole(len(sizes), demand.target.form, demand.target.dtype)
    placement = replace(whole, embedding_on_host=demand.embedding_on_host)
    return _planned(demand, machine, placement, parts)


def _spread(demand: Demand, machine: Machine) -> MemoryPlan | None:
    """All layers on devices, with the first and then the others; None if they do not fit."""
    budget, target = machine.device_budget(demand.config), demand.target
    if budget is None:
        return None
    others, sizes = machine.other_budgets(demand.config), target.layer_bytes
    fixed = demand.fixed()
    cache = next(part for part in fixed if part.name == CACHE)
    fixed = tuple(part for part in fixed if part is not cache)
    cache_each = -(-cache.size_bytes // len(sizes))
    beside = sum(part.size_bytes for part in fixed if part.name in (PASS_SCRATCH, WEIGHT_SCRATCH, CUDA))
    room = budget - sum(part.size_bytes for part in fixed if part.where == "device")
    counts = split([room, *(each - beside for each in others)], [size + cache_each for size in sizes])
    if room < 0 or counts is None:
        return None
    if demand.embedding_on_host:
        _host_room(demand, machine)
    parts, begin = list(fixed), 0
    for device, count in zip(("", *(gpu.device for gpu in machine.others)), counts, strict=True):
        layers = sum(sizes[begin : begin + count])
        begin += count
        prefix, where = (f"{device}: ", "others") if device else ("", "device")
        note = f"{count} of {len(sizes)}, {_megabytes(max(sizes))} each"
        if count:
            parts.append(Part(f"{prefix}resident layers", where, layers, note))
            parts.append(Part(f"{prefix}{CACHE}", where, count * cache_each, cache.note))
        if count and device:
            parts.append(Part(f"{prefix}scratch, {CUDA}", where, beside))
    devices = (machine.device, *(gpu.device for gpu in machine.others))
    stages = tuple(Stage(device, count) for device, count in zip(devices, counts, strict=True) if count)
    whole = Placement.whole(len(sizes), target.form, target.dtype)
    placement = replace(
        whole, embedding_on_host=demand.embedding_on_host, stages=stages if counts[0] < len(sizes) else ()
    )
    return _planned(demand, machine, placement, tuple(parts))


def _streaming(demand: Demand, machine: Machine, resident: int) -> MemoryPlan:
    """With `resident` layers on the device, the others in host memory, or on disk if there is no room."""
    target = demand.target
    sizes = target.layer_bytes
    budget = machine.device_budget(demand.config)
    stay = spread(len(sizes), resident)
    streamed = tuple(layer for layer in range(len(sizes)) if layer not in set(stay))
    thrifty = budget is not None and demand.needed_bytes(resident) > budget
    ring = min(LEAST_RING_SLOTS if thrifty else RING_SLOTS, len(streamed))
    fixed = demand.fixed()
    # What a CPU's memory has room for is resident.
    room = 0 if machine.form == "cpu" else _host_room(demand, machine)
    from_disk = _from_disk(streamed, sizes, room)
    held = sum(sizes[layer] for layer in streamed) - sum(sizes[layer] for layer in from_disk)
    largest = max(sizes[layer] for layer in streamed)
    each = f"of {len(sizes)}, {_megabytes(largest)} each"
    parts = (
        *fixed,
        Part("resident layers", "device", sum(sizes[layer] for layer in stay), f"{len(stay)} {each}"),
        Part("slots that layers stream to", "device", ring * largest, f"{ring}, {_megabytes(largest)} each"),
        Part("streamed layers", "host", held, f"{len(streamed) - len(from_disk)} {each}"),
        Part(
            "layers read from disk",
            "disk",
            sum(sizes[layer] for layer in from_disk),
            f"{len(from_disk)} {each}",
        ),
    )
    placement = Placement(
        target.form, target.dtype, stay, streamed, from_disk, ring, embedding_on_host=demand.embedding_on_host
    )
    return _planned(demand, machine, placement, tuple(part for part in parts if part.size_bytes))


def _host_room(demand: Demand, machine: Machine) -> int | None:
    """Host memory for layers; None: no bound. Raises ConfigError if not even the embedding fits."""
    budget = machine.host_budget(demand.config)
    if budget is None:
        return None
    room = budget - (demand.target.embedding_bytes if demand.embedding_on_host else 0)
    if room < 0:
        raise ConfigError(
            f"{demand.config.model} does not fit: its embedding needs {gib(demand.target.embedding_bytes)} "
            f"of host memory, and there are {gib(max(budget, 0))}. Raise max_ram, or close other programs."
        )
    return room


def _megabytes(size_bytes: int) -> str:
    """Decimal ones, in which bandwidths are counted."""
    return f"{size_bytes / 1e6:.1f} MB"


def _from_disk(streamed: tuple[int, ...], sizes: tuple[int, ...], room: int | None) -> tuple[int, ...]:
    """As few of `streamed` as leave others that fit into so much host memory, evenly among them."""
    if room is None:
        return ()
    for count in range(len(streamed)):
        chosen = tuple(streamed[index] for index in spread(len(streamed), count))
        if sum(sizes[layer] for layer in streamed) - sum(sizes[layer] for layer in chosen) <= room:
            return chosen
    return streamed


def _planned(demand: Demand, machine: Machine, target: Placement, parts: tuple[Part, ...]) -> MemoryPlan:
    return MemoryPlan(
        form=machine.form,
        target=target,
        drafts=tuple(
            Placement.whole(draft.architecture.num_layers, draft.form, draft.dtype) for draft in demand.drafts
        ),
        max_length=demand.length,
        slots=demand.slots,
        layer_bytes=demand.target.layer_bytes,
        parts=parts,
        device_budget=machine.device_budget(demand.config),
        host_budget=machine.host_budget(demand.config),
    )
