"""A memory plan as people read it, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.config import EngineConfig
from engine.memory import gib
from engine.offload.demand import Where
from engine.offload.machine import ASSUMED_DISK, ASSUMED_LINK, Machine
from engine.offload.plan import MemoryPlan
from engine.offload.prediction import USUAL_ACCEPTANCE, Prediction

_GIGA = 1e9


def as_object(machine: Machine, plan: MemoryPlan, prediction: Prediction) -> dict[str, object]:
    """Plain values: sizes in bytes, times in milliseconds."""
    return {
        "machine": asdict(machine),
        "plan": asdict(plan) | {"pass_bytes": plan.pass_bytes, "disk_pass_bytes": plan.disk_pass_bytes},
        "fits_host_memory": not plan.target.from_disk,
        "prediction": asdict(prediction)
        | {"pass_ms": prediction.pass_ms, "tokens_per_s": prediction.tokens_per_s},
    }


def laid_out(
    config: EngineConfig, machine: Machine, plan: MemoryPlan, prediction: Prediction
) -> RenderableType:
    """For a terminal of 80 columns or more."""
    target, drafts = config.shown_names
    title = Text(f"{target}, drafted by {drafts}" if drafts else target, style="bold")
    said = _sentences(config, machine, plan, prediction)
    sentences = (Text(sentence, overflow="fold") for sentence in said)
    return Group(title, Text(_machine(machine)), Text(), _table(plan), Text(), *sentences)


def _machine(machine: Machine) -> str:
    ram = f"{gib(machine.ram_bytes)} of memory" if machine.ram_bytes is not None else "memory of unknown size"
    if machine.form == "cpu":
        return f"On the processor, with {ram}."
    assert machine.vram_bytes is not None
    others = f", {len(machine.others)} more of them" if machine.others else ""
    return f"On {machine.name or 'a GPU'} with {gib(machine.vram_bytes)}{others}, and {ram}."


def _table(plan: MemoryPlan) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    names: dict[Where, str] = {
        "device": "GPU memory" if plan.form == "cuda" else "Memory",
        "others": "Memory of the other GPUs",
        "host": "Host memory",
        "disk": "Read from disk at every pass",
    }
    budgets: dict[Where, int | None] = {
        "device": plan.device_budget,
        "others": None,
        "host": plan.host_budget,
        "disk": None,
    }
    for where, name in names.items():
        parts = [part for part in plan.parts if part.where == where]
        if not parts:
            continue
        budget = budgets[where]
        of = f"of {gib(max(budget, 0))}" if budget is not None else ""
        table.add_row(name, gib(plan.bytes_at(where)), of, style="bold")
        for part in parts:
            table.add_row(f"  {part.name}", gib(part.size_bytes), part.note)
    return table


def _sentences(
    config: EngineConfig, machine: Machine, plan: MemoryPlan, prediction: Prediction
) -> Iterator[str]:
    yield f"Context: {plan.max_length} tokens, for {plan.slots} prompt{'s' * (plan.slots > 1)} at a time."
    if plan.target.streamed:
        yield from _about_streaming(machine, plan, prediction)
    elif prediction.measured_ms is None:
        yield f"Nothing streams. A pass takes about {_time(prediction.pass_ms)} ({machine.compute.source})."
    if prediction.measured_ms is not None:
        took = _time(prediction.measured_ms)
        yield f"When the models were last loaded so, a pass took {took}{_drafting(prediction)}."
    if prediction.rows == 1:
        why = "" if config.engine == "ar" else "A full tree would cost more than it brings. "
        yield f"{why}One token a pass comes to {prediction.tokens_per_s:.1f} tokens/s."
        return
    assumed = " (assumed)" if prediction.acceptance == USUAL_ACCEPTANCE else ""
    yield f"{prediction.acceptance:g} tokens a pass{assumed} come to {prediction.tokens_per_s:.1f} tokens/s."


def _about_streaming(machine: Machine, plan: MemoryPlan, prediction: Prediction) -> Iterator[str]:
    found = prediction.schedule
    if plan.form == "cuda":
        yield (
            f"Every pass copies {_size(plan.pass_bytes)} to the GPU, at "
            f"{_rate(machine.link_bytes_per_s, ASSUMED_LINK)}: "
            f"{_time(1000 * plan.pass_bytes / machine.link_bytes_per_s)}. Computing takes "
            f"{_time(found.compute_ms)} beside it ({machine.compute.source}){_drafting(prediction)}."
        )
    yield (
        f"A pass takes {_time(found.pass_ms)}; the {'link' if plan.form == 'cuda' else 'disk'} is busy "
        f"{found.link_utilisation:.0%} of it. A cancel is done within {_time(found.cancel_to_idle_ms)}."
    )
    if plan.target.from_disk:
        yield _about_disk(machine, plan, prediction)
    else:
        yield "Host memory suffices."


def _about_disk(machine: Machine, plan: MemoryPlan, prediction: Prediction) -> str:
    read = (
        f"{_size(plan.disk_pass_bytes)} are read from disk at every pass, at "
        f"{_rate(machine.disk_bytes_per_s, ASSUMED_DISK)}: "
        f"{_time(1000 * plan.disk_pass_bytes / machine.disk_bytes_per_s)}."
    )
    if prediction.without_disk is None:
        return f"Memory does not suffice: {read}"
    without = _time(prediction.without_disk.pass_ms)
    return f"Host memory does not suffice: {read} If it held them, a pass would take {without}."


def _drafting(prediction: Prediction) -> str:
    draft_ms = prediction.rates.draft_ms
    return f", drafting {_time(draft_ms)}" if draft_ms else ""


def _size(size_bytes: int) -> str:
    """Decimal, as bandwidths are."""
    return f"{size_bytes / _GIGA:.1f} GB" if size_bytes >= _GIGA else f"{size_bytes / 1e6:.1f} MB"


def _time(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _rate(bytes_per_s: float, assumed: float) -> str:
    return f"{bytes_per_s / _GIGA:g} GB/s{' (assumed)' if bytes_per_s == assumed else ''}"
