"""A 70B that does not fit, streamed: against what is possible, UMbreLLa's schedule, and accelerate.

``python -m benchmarks.offload`` plans the shipped configurations for cards of 12, 16, 24 and 48 GB.
Without a GPU, the headline figures are the real ring's on a virtual clock, at full scale. Beside them, under
``wall``, are those of a real model on a real clock: one small block, repeated, whose layers come over a
*simulated link*, a thread that copies no faster than asked. With a GPU they are those of a 70B's block,
repeated, under the card's memory cap.

UMbreLLa's schedule is a replica: what it does when, with our kernels or, on the virtual clock, with the
times of ours. What its own kernels cost is not in it: schedule only. Tokens a pass come from recorded runs.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.offload import caps, wall
from benchmarks.offload.acceptance import Acceptance, recorded
from benchmarks.offload.caps import AcceleratePass, Planned
from benchmarks.offload.shapes import CARDS, LINK_GB_PER_S, RAM_GB, SCALED, Shape
from benchmarks.offload.synthetic import Synthetic
from benchmarks.offload.wall import Effort, Scaled, SimulatedLink
from benchmarks.report import print_report

FULL = Effort(rounds=4, passes=3, cancels=12, rows=4, most_rows=64)
QUICK = Effort(rounds=1, passes=2, cancels=4, rows=4)
QUICK_LAYERS = 16
SIMULATED_BYTES_PER_S = 0.4e9
"""So that a copy takes several times a layer's computation, as a 70B's does."""


def scaled(planned: Planned, acceptance: Acceptance) -> Scaled:
    """A card's placement, for a bench of another size."""
    rates = planned.predicted(acceptance.ours).rates
    copy_ms, layers = planned.costs(rates).copy_ms, len(planned.plan.layer_bytes)
    return Scaled(
        resident_share=planned.resident / layers,
        cached_share=(planned.card.umbrella_cached or 0) / layers,
        draft_copies=rates.draft_ms / copy_ms,
        umbrella_draft_copies=planned.umbrella_draft_ms() / copy_ms,
        slots=planned.plan.target.slots,
    )


def simulated(
    cards: Sequence[Planned],
    acceptance: Acceptance,
    shape: Shape,
    effort: Effort,
    told: Callable[[str], None],
) -> dict[str, object]:
    """The document's figures on a machine without a GPU."""
    accelerate = _accelerate_pass()
    bench = SimulatedLink(Synthetic.of(shape, torch.device("cpu")), SIMULATED_BYTES_PER_S)
    found: dict[str, object] = {}
    for planned in cards:
        told(f"{planned.card.gb} GB")
        clock: dict[str, object] | None = None
        if planned.plan.target.streamed:
            clock = wall.figures(bench, scaled(planned, acceptance), effort)
        found[str(planned.card.gb)] = caps.figures(planned, acceptance, accelerate) | {"wall": clock}
    return {
        "link": "simulated",
        "clock": "virtual; wall clock under `wall`, on the scaled-down model",
        "caps": found,
        "scale": {
            "virtual": f"70B AWQ, {LINK_GB_PER_S:g} GB/s, {RAM_GB} GB of RAM, cards by their data sheets",
            "wall": f"{shape.num_layers} layers of {bench.model.source.size_bytes(0) / 1e6:.1f} MB, "
            f"{SIMULATED_BYTES_PER_S / 1e9:g} GB/s, {effort.rows} rows",
        },
    }


def _accelerate_pass() -> AcceleratePass | None:
    if find_spec("accelerate") is None:
        return None
    from benchmarks.offload.accelerated import virtual_pass_ms

    return virtual_pass_ms


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute: few passes")
    parser.add_argument("--cap", type=int, choices=[card.gb for card in CARDS], help="one card alone")
    parser.add_argument("--cpu", action="store_true", help="the simulated link, though there is a GPU")
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else FULL
    acceptance = recorded()
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("planning", total=len(CARDS))

        def told(what: str) -> None:
            progress.update(task, description=what, advance=1)

        chosen = [card for card in CARDS if options.cap in (None, card.gb)]
        cards = [Planned.of(card, Path(folder)) for card in chosen]
        if torch.cuda.is_available() and not options.cpu:
            from benchmarks.offload.gpu import on_gpu

            found = on_gpu(cards, acceptance, effort, scaled, told)
        else:
            shape = SCALED.with_layers(QUICK_LAYERS) if options.quick else SCALED
            found = simulated(cards, acceptance, shape, effort, told)
    asked = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "quick": options.quick,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "acceptance": {"ours": acceptance.ours, "umbrella": acceptance.umbrella, "source": acceptance.source},
        "umbrella_schedule": "a replica: schedule only",
    }
    print_report("offload", {**asked, **found})


if __name__ == "__main__":
    main()
