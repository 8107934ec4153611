"""How long a pass will take, and what that gives in tokens a second: the ring on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.config import EngineConfig
from engine.footprint import Footprint, footprints, layer_weights
from engine.offload.machine import Compute, Machine
from engine.offload.placement import Placement
from engine.offload.plan import MemoryPlan
from engine.offload.schedule import Schedule, Work, simulate

USUAL_ACCEPTANCE = 6.0
"""Tokens a pass, with a draft model on code. An assumption: it depends on model, draft and text."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the schedule of a pass depends on, measured or assumed. Bytes a second, and milliseconds."""

    link_bytes_per_s: float
    disk_bytes_per_s: float
    layer_ms: float
    """Of computing one layer."""
    head_ms: float = 0.0
    draft_ms: float = 0.0
    """Between two passes."""
    wait_draft_ms: float = 0.0
    """Drafting that can be done while a layer comes."""


def schedule(placement: Placement, layer_bytes: Sequence[int], rates: Rates) -> Schedule:
    """What passes of a model take whose layers, of so many bytes, lie as `placement` says."""
    from_disk = frozenset(placement.from_disk)
    # On a CPU the disk itself is the link.
    link_bytes_per_s = rates.disk_bytes_per_s if placement.form == "cpu" else rates.link_bytes_per_s

    def copy_ms(layer: int) -> float:
        return 1000 * layer_bytes[layer] / link_bytes_per_s

    def read_ms(layer: int) -> float:
        read = placement.form == "cuda" and layer in from_disk
        return 1000 * layer_bytes[layer] / rates.disk_bytes_per_s if read else 0.0

    return simulate(
        Work(
            num_layers=len(layer_bytes),
            streamed=placement.streamed,
            slots=placement.slots,
            copy_ms=copy_ms,
            read_ms=read_ms,
            layer_ms=rates.layer_ms,
            head_ms=rates.head_ms,
            draft_ms=rates.draft_ms,
            wait_draft_ms=rates.wait_draft_ms,
        )
    )


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of a plan on a machine, with a full context."""

    rows: int
    """Of a pass; 1 where nothing is drafted."""
    rates: Rates
    schedule: Schedule
    without_disk: Schedule | None
    """If host memory held what is read from disk; None if nothing is."""
    acceptance: float
    """Tokens a pass."""
    measured_ms: float | None
    """What a pass was measured to take, drafting not included; None if it never was."""

    @property
    def pass_ms(self) -> float:
        """Of a pass and its drafting: as measured, or else as the schedule says."""
        return self.schedule.pass_ms if self.measured_ms is None else self.measured_ms + self.rates.draft_ms

    @property
    def tokens_per_s(self) -> float:
        return 1000 * self.acceptance / self.pass_ms


def predict(
    config: EngineConfig,
    machine: Machine,
    plan: MemoryPlan,
    acceptance: float,
    measured_ms: float | None = None,
) -> Prediction:
    """What to expect of `plan`, made for `config` and `machine`, where a pass once took `measured_ms`.

    A pass is of a full tree. A layer takes as long as reading its weights and keys or as multiplying,
    whichever is longer. Every draft model is asked, between two passes, for twice as many levels as are
    accepted.
    """
    target, drafts = footprints(config, machine.form)
    compute, rows = machine.compute, config.tree_size
    levels = min(config.depth, round(2 * acceptance))
    rates = Rates(
        link_bytes_per_s=machine.link_bytes_per_s,
        disk_bytes_per_s=machine.disk_bytes_per_s,
        layer_ms=_layer_ms(target, compute, rows, plan.max_length),
        head_ms=_head_ms(target, compute, rows),
        draft_ms=sum(levels * _step_ms(draft, compute, config.width, plan.max_length) for draft in drafts),
    )
    found = schedule(plan.target, plan.layer_bytes, rates)
    without = None
    if plan.target.from_disk and machine.form == "cuda":
        without = schedule(plan.target.without_disk(), plan.layer_bytes, rates)
    return Prediction(rows, rates, found, without, acceptance, measured_ms)


def predict_what_pays(
    config: EngineConfig,
    machine: Machine,
    plan: MemoryPlan,
    acceptance: float,
    measured_ms: tuple[float, float] | None = None,
) -> Prediction:
    """As `predict`, of one token a pass where nothing is drafted, or a full tree would not pay.

    `measured_ms`: what passes of one row and of a full tree once took.
    """
    one_ms, tree_ms = measured_ms or (None, None)
    plain = predict(replace(config, engine="ar", tree_size=1), machine, plan, 1.0, one_ms)
    if config.engine == "ar":
        return plain
    drafted = predict(config, machine, plan, acceptance, tree_ms)
    # A static tree is made whether it pays or not.
    return max(plain, drafted, key=lambda each: each.tokens_per_s) if config.engine == "dynamic" else drafted


def _step_ms(model: Footprint, compute: Compute, rows: int, length: int) -> float:
    layers = model.architecture.num_layers * _layer_ms(model, compute, rows, length)
    return layers + _head_ms(model, compute, rows)


def _layer_ms(model: Footprint, compute: Compute, rows: int, length: int) -> float:
    shape = model.architecture
    read = max(model.layer_bytes) + length * model.token_bytes / shape.num_layers
    return _ms(compute, read, 2 * rows * layer_weights(shape))


def _head_ms(model: Footprint, compute: Compute, rows: int) -> float:
    shape = model.architecture
    return _ms(compute, model.embedding_bytes, 2 * rows * shape.vocab_size * shape.hidden_size)


def _ms(compute: Compute, read_bytes: float, operations: float) -> float:
    return 1000 * max(read_bytes / compute.memory_bytes_per_s, operations / compute.operations_per_s)
