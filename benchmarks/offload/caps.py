"""What a 70B takes on cards of several sizes: the memory plan's placement, the real ring, a virtual clock.

Exact for the times that go in: bytes over a link's speed, and a card's data sheet for the computation.
Nothing is run, so it is the schedule that is compared here and not the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.offload import umbrella
from benchmarks.offload.acceptance import Acceptance
from benchmarks.offload.checkpoint import write
from benchmarks.offload.shapes import (
    GB,
    GIB,
    HUB,
    LINK_GB_PER_S,
    LINKS_GB_PER_S,
    RAM_GB,
    ROWS,
    Card,
)
from benchmarks.offload.umbrella import PassCosts
from engine.config import EngineConfig, load
from engine.offload.machine import Machine
from engine.offload.plan import MemoryPlan, plan
from engine.offload.prediction import Prediction, Rates, predict, schedule
from engine.offload.schedule import Schedule

ROOT = Path(__file__).parents[2]
NOTHING_STREAMS = "all layers stay on the card: no link is used, and neither UMbreLLa nor accelerate offloads"

HEADLINES = (
    "pass_over_bound",
    "umbrella_schedule_over_ours",
    "accelerate_over_ours",
    "link_utilisation",
    "exposed_draft_ms",
    "cancel_to_idle_ms",
)
"""What every card has in the document, if only as null."""

AcceleratePass = Callable[[PassCosts, int], float]
"""Milliseconds of a pass by accelerate, with so many layers on the device."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A shipped configuration on a card, planned for checkpoints that have headers and no weights."""

    card: Card
    config: EngineConfig
    machine: Machine
    plan: MemoryPlan

    @staticmethod
    def of(card: Card, folder: Path) -> Planned:
        """With its checkpoints below `folder`, made as they are needed."""
        shipped = load(ROOT / card.config)
        config = replace(
            shipped,
            model=str(_headers(folder, shipped.model)),
            draft_model=tuple(str(_headers(folder, draft.name)) for draft in shipped.drafts),
        )
        machine = Machine.card(card.gb * GIB, RAM_GB * GIB, card.gpu)
        return Planned(card, config, machine, plan(config, machine))

    @property
    def resident(self) -> int:
        """Layers that stay on the card."""
        return len(self.plan.target.resident)

    def predicted(self, acceptance: float, rows: int | None = None) -> Prediction:
        """Its passes; with other rows than it has, if asked."""
        config = self.config if rows is None else replace(self.config, tree_size=rows)
        machine = self.machine.with_stated(link_bytes_per_s=LINK_GB_PER_S * GB)
        return predict(config, machine, self.plan, acceptance)

    def umbrella_draft_ms(self) -> float:
        """What as many passes of the draft model take as UMbreLLa has before each of the target's."""
        one = predict(replace(self.config, depth=1), self.machine, self.plan, 1.0)
        return self.card.umbrella_levels * one.rates.draft_ms

    def at(self, rates: Rates) -> Schedule:
        """Its passes at other rates."""
        return schedule(self.plan.target, self.plan.layer_bytes, rates)

    def costs(self, rates: Rates) -> PassCosts:
        """Of one pass, for other schedules than ours."""
        layer_bytes = max(self.plan.layer_bytes)
        return PassCosts(
            num_layers=len(self.plan.layer_bytes),
            layer_ms=rates.layer_ms,
            head_ms=rates.head_ms,
            copy_ms=1000 * layer_bytes / rates.link_bytes_per_s,
            # Read and written.
            device_copy_ms=2000 * layer_bytes / self.machine.compute.memory_bytes_per_s,
            draft_ms=rates.draft_ms,
        )


def _headers(folder: Path, model: str) -> Path:
    place = folder / model.replace("/", "--")
    return place if place.is_dir() else write(place, HUB[model], weights=False)


def figures(planned: Planned, acceptance: Acceptance, accelerate: AcceleratePass | None) -> dict[str, object]:
    """All that the virtual clock says of one card; `accelerate` is None where it cannot be had."""
    prediction = planned.predicted(acceptance.ours)
    found = prediction.schedule
    alone_ms = found.pass_ms - found.exposed_draft_ms
    streams = bool(planned.plan.target.streamed)
    copy_ms = planned.costs(prediction.rates).copy_ms
    rates = prediction.rates
    waits = planned.at(replace(rates, draft_ms=0.0, wait_draft_ms=rates.draft_ms))
    return {
        "pass_over_bound": _rounded(alone_ms / found.bound_ms),
        **_others(planned, prediction, accelerate),
        "link_utilisation": _rounded(found.link_utilisation) if streams else None,
        "exposed_draft_ms": _rounded(found.exposed_draft_ms, 1),
        "exposed_draft_in_waits_ms": _rounded(waits.exposed_draft_ms, 1),
        "cancel_to_idle_ms": _rounded(found.cancel_to_idle_ms, 1),
        "cancel_to_idle_layers": _rounded(found.cancel_to_idle_ms / copy_ms, 2) if streams else None,
        **({} if streams else {"null_because": NOTHING_STREAMS}),
        "card": planned.card.gpu,
        "config": planned.card.config,
        "plan": {
            "resident_layers": planned.resident,
            "streamed_layers": len(planned.plan.target.streamed),
            "layers_from_disk": len(planned.plan.target.from_disk),
            "ring_slots": planned.plan.target.slots,
            "max_length": planned.plan.max_length,
            "kv_slots": planned.plan.slots,
            "bytes_a_pass": planned.plan.pass_bytes,
        },
        "rows": planned.config.tree_size,
        "draft_ms": _rounded(prediction.rates.draft_ms, 1),
        "stream_ms": _rounded(found.stream_ms, 1),
        "compute_ms": _rounded(found.compute_ms, 1),
        "bound_ms": _rounded(found.bound_ms, 1),
        "pass_ms": _rounded(found.pass_ms, 1),
        "pass_without_drafting_ms": _rounded(alone_ms, 1),
        "tokens_per_s": _rounded(prediction.tokens_per_s, 2),
        "links": {f"{speed:g}": _link(planned, prediction, speed) for speed in LINKS_GB_PER_S},
        "pass_ms_by_rows": {
            str(rows): _rounded(_alone(planned.predicted(acceptance.ours, rows=rows).schedule), 1)
            for rows in ROWS
        },
    }


def _others(planned: Planned, prediction: Prediction, accelerate: AcceleratePass | None) -> dict[str, object]:
    """UMbreLLa's schedule and accelerate's, over ours; None where nothing streams."""
    ours_ms, resident = prediction.schedule.pass_ms, planned.resident
    theirs_ms = _umbrella_ms(planned, prediction.rates)
    if theirs_ms is None:
        return {"umbrella_schedule_over_ours": None, "accelerate_over_ours": None}
    costs = planned.costs(prediction.rates)
    same_ms = umbrella.pass_ms(costs, resident)
    deeper_ms = umbrella.pass_ms(replace(costs, draft_ms=planned.umbrella_draft_ms()), resident)
    accelerate_ms = accelerate(costs, resident) if accelerate else None
    return {
        "umbrella_schedule_over_ours": _rounded(theirs_ms / ours_ms),
        "accelerate_over_ours": accelerate_ms and _rounded(accelerate_ms / ours_ms),
        "umbrella_schedule": {
            "cached_layers": planned.card.umbrella_cached,
            "draft_levels": planned.card.umbrella_levels,
            "pass_ms": _rounded(theirs_ms, 1),
            "same_layers_and_drafting_pass_ms": _rounded(same_ms, 1),
            "same_layers_and_drafting_over_ours": _rounded(same_ms / ours_ms),
            "habits_cost_ms": {
                "fewer_layers_on_the_card": _rounded(theirs_ms - deeper_ms, 1),
                "drafting_to_full_depth": _rounded(deeper_ms - same_ms, 1),
                **{name: _rounded(ms, 1) for name, ms in umbrella.costs_of_habits(costs, resident).items()},
            },
        },
    }


def _umbrella_ms(planned: Planned, rates: Rates) -> float | None:
    """A pass by UMbreLLa's schedule, with layers and levels of its own configuration; None if none stream."""
    cached = planned.card.umbrella_cached
    if cached is None or not planned.plan.target.streamed:
        return None
    return umbrella.pass_ms(replace(planned.costs(rates), draft_ms=planned.umbrella_draft_ms()), cached)


def _link(planned: Planned, prediction: Prediction, gb_per_s: float) -> dict[str, object]:
    """A pass over a link of that speed, for a plot."""
    rates = replace(prediction.rates, link_bytes_per_s=gb_per_s * GB)
    found, theirs_ms = planned.at(rates), _umbrella_ms(planned, rates)
    return {
        "pass_ms": _rounded(found.pass_ms, 1),
        "bound_ms": _rounded(found.bound_ms, 1),
        "umbrella_schedule_pass_ms": theirs_ms and _rounded(theirs_ms, 1),
        "tokens_per_s": _rounded(1000 * prediction.acceptance / found.pass_ms, 2),
    }


def _alone(found: Schedule) -> float:
    return found.pass_ms - found.exposed_draft_ms


def _rounded(value: float, digits: int = 3) -> float:
    return round(value, digits)
