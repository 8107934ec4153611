"""What of the benchmark's document docs/figures.md shows: a table, and what a picture is drawn of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """Passes over a link of some speed."""

    pass_ms: float
    bound_ms: float
    umbrella_schedule_pass_ms: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the layers lie."""

    resident_layers: int
    streamed_layers: int


@dataclass(frozen=True, slots=True)
class Umbrella:
    """More of UMbreLLa's schedule."""

    same_layers_and_drafting_over_ours: float


@dataclass(frozen=True, slots=True)
class Cap:
    """A card, on the virtual clock."""

    card: str
    plan: Plan
    pass_ms: float
    pass_over_bound: float
    umbrella_schedule_over_ours: float | None
    accelerate_over_ours: float | None
    cancel_to_idle_ms: float
    links: Mapping[str, Link]
    umbrella_schedule: Umbrella | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """The document of a machine without a GPU."""

    caps: Mapping[str, Cap]
    """By GB of memory."""


def table(document: Document) -> str:
    """Markdown: a row a card."""
    rows = [
        (
            "| *simulated*: card | layers on it + streamed | a pass | over the bound "
            "| UMbreLLa's schedule, over ours (same layers, same drafting) | accelerate's | cancel to idle |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows += [_row(gb, cap) for gb, cap in document.caps.items()]
    return "\n".join(rows)


def _row(gb: str, cap: Cap) -> str:
    layers = f"{cap.plan.resident_layers} + {cap.plan.streamed_layers}"
    cells = [f"{gb} GB ({cap.card})", layers, f"{cap.pass_ms / 1000:.2f} s", f"{cap.pass_over_bound:.2f}"]
    same = cap.umbrella_schedule and cap.umbrella_schedule.same_layers_and_drafting_over_ours
    cells.append(_times(cap.umbrella_schedule_over_ours) + (f" ({_times(same)})" if same else ""))
    cells.append(_times(cap.accelerate_over_ours))
    cells.append(f"{cap.cancel_to_idle_ms:.0f} ms")
    return f"| {' | '.join(cells)} |"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
