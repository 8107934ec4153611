"""What passes took when the models were last loaded as a plan has them. Imports torch."""

from __future__ import annotations

import torch

from engine.config import EngineConfig
from engine.costs import CostCache, Timed
from engine.errors import UmbrellaError
from engine.footprint import Footprint
from engine.offload.plan import MemoryPlan
from engine.speculation import most_rows, read_grow_map
from engine.weight_files import weight_files
from engine.weights import DTYPES, choose_device


def measured_pass_ms(config: EngineConfig, plan: MemoryPlan) -> tuple[float, float] | None:
    """Of one row, and of the target's widest pass, on this machine; None if it was never loaded so."""
    try:
        rows = most_rows(config, read_grow_map(config, plan.max_length))
    except UmbrellaError:
        return None  # Whoever loads it says so.
    if config.threads is not None:
        torch.set_num_threads(config.threads)  # As whoever loads it does: times depend on it.
    target, placement = Footprint.of(config.target, config.dtype, plan.form), plan.target
    split = (
        len(placement.resident),
        len(placement.streamed) - len(placement.from_disk),
        len(placement.from_disk),
    )
    in_place = not placement.streamed and not placement.embedding_on_host and not placement.stages
    timed = Timed(
        config=target.architecture,
        weights_bytes=sum(file.stat().st_size for file in weight_files(target.folder)),
        device=choose_device(config.device),
        dtype=DTYPES[placement.dtype],
        split=split,
        stages=tuple(stage.layers for stage in placement.stages) or (sum(split),),
        replays=plan.form == "cuda" and config.cuda_graph and in_place,
        most_rows=rows,
    )
    table = CostCache.of_user().kept(timed)
    return table and (table.ms(1), table.ms(rows))
