"""What a pass takes by its number of rows, T(n): measured when a model is loaded, and kept on disk.

Speculation is worth what a pass of many rows costs less than many passes of one. That depends on the
machine, its kernels and the model, and grows in steps, so it is measured and not assumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from engine.checkpoint import Checkpoint
from engine.kept import folder_for, replace_whole, speed_facts
from engine.model import Block, Transformer
from engine.model_config import ModelConfig

log = logging.getLogger(__name__)

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 384, 512)
"""Rows that are timed, up to the most a tree may have."""
MOST_ROWS = 1 << 20
CACHED, CHUNK = 512, 64
"""Tokens in the cache while timing, and how many are put there at a time."""
ROUNDS = 9
BUDGET_S = 2.0
"""Time after which no further round is begun. Of a slow model, only as many sizes are timed at all."""


@dataclass(frozen=True, slots=True)
class CostTable:
    """Milliseconds of a pass by its rows."""

    rows: tuple[int, ...]
    """Ascending, beginning with 1."""
    times_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rows or self.rows[0] != 1 or len(self.rows) != len(self.times_ms):
            raise ValueError("rows must begin with 1, and times_ms must have one entry each")
        if self.rows[-1] > MOST_ROWS:
            raise ValueError(f"rows must not be above {MOST_ROWS}")
        if any(later <= earlier for earlier, later in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError("rows must be ascending")
        if not all(0 < time_ms < float("inf") for time_ms in self.times_ms):
            raise ValueError("times_ms must be positive")

    @staticmethod
    def flat(time_ms: float = 1.0) -> CostTable:
        """Of a target for which rows cost nothing, as where weights stream from host memory."""
        return CostTable((1, 1 << 16), (time_ms, time_ms))

    @staticmethod
    def of(rows: Sequence[int], times_ms: Sequence[float]) -> CostTable:
        """A table that never falls: what few rows take is no more than what more rows take."""
        cheapest, monotone = float("inf"), list[float]()
        for time_ms in reversed(times_ms):
            cheapest = min(cheapest, time_ms)
            monotone.append(cheapest)
        return CostTable(tuple(rows), tuple(reversed(monotone)))

    def ms(self, rows: int) -> float:
        """Of a pass of `rows`: between two that were timed in proportion, beyond the last at its slope."""
        at = bisect_left(self.rows, rows)
        if at < len(self.rows) and self.rows[at] == rows:
            return self.times_ms[at]
        if len(self.rows) == 1:
            return self.times_ms[0] * rows
        low, high = (at - 1, at) if at < len(self.rows) else (at - 2, at - 1)
        slope = (self.times_ms[high] - self.times_ms[low]) / (self.rows[high] - self.rows[low])
        return self.times_ms[low] + slope * (rows - self.rows[low])


def measure(model: Transformer, most_rows: int, clock: Callable[[], float] = time.perf_counter) -> CostTable:
    """Time passes of 1 to `most_rows` rows, in rounds, so that a disturbance hits all sizes alike."""
    sizes = [size for size in ROWS if size < most_rows] + [most_rows]
    cached = min(CACHED, model.config.max_position)
    cache = model.new_cache(cached + sizes[-1])
    began = clock()
    # A slow model is timed on fewer.
    while cache.length < cached and clock() - began < BUDGET_S / 2:
        text = [index % model.config.vocab_size for index in range(min(CHUNK, cached - cache.length))]
        model.forward(Block.chain(text), cache, [], _nothing)
        cache.keep(range(len(text)), text)

    def timed(size: int) -> float:
        # A comb: every other node goes on, as in a tree that is worth its rows.
        block = Block([1] * size, [-1, *(row // 2 for row in range(size - 1))])
        since = clock()
        model.forward(block, cache, range(size), _nothing)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return 1000 * (clock() - since)

    timed(1)  # What is set up at a first pass is no part of its time.
    affordable = max(4, int(1000 * BUDGET_S / timed(1)))
    sizes = [*sizes[: -1 : -(-len(sizes) // affordable)], sizes[-1]]
    samples: dict[int, list[float]] = {size: [] for size in sizes}
    for done in range(ROUNDS):
        if done and clock() - began > BUDGET_S:
            break
        for size in sizes:
            samples[size].append(timed(size))
    # The least, for whatever else goes on only adds to it.
    return CostTable.of(sizes, [min(samples[size]) for size in sizes])


def _nothing(_layer: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Timed:
    """Everything that a pass's time depends on and that can be told beforehand."""

    config: ModelConfig
    weights_bytes: int
    """Of its files."""
    device: torch.device
    dtype: torch.dtype
    split: tuple[int, int, int]
    """As `engine.layers.LayerStore.split`."""
    stages: tuple[int, ...]
    """How many layers run on each device, in the order in which a pass goes through them."""
    replays: bool
    most_rows: int

    @staticmethod
    def of(checkpoint: Checkpoint, model: Transformer, most_rows: int) -> Timed:
        """Of `model`, loaded from `checkpoint`, in passes of up to so many rows."""
        return Timed(
            checkpoint.config,
            checkpoint.size_bytes,
            model.device,
            model.dtype,
            model.split,
            model.stages,
            model.replay is not None,
            most_rows,
        )

    def digest(self) -> str:
        """Equal on one machine for what takes equal times."""
        facts = [*speed_facts(self.device), str(self.dtype), self.most_rows, repr(self.config)]
        facts += [self.weights_bytes, self.replays, self.split, self.stages]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


class CostCache:
    """Tables by model and machine, one small file each; without a folder, none is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @staticmethod
    def of_user() -> CostCache:
        """In the user's cache folder, if that is to be found from anywhere."""
        return CostCache(folder_for("costs"))

    def table(self, checkpoint: Checkpoint, model: Transformer, most_rows: int) -> CostTable:
        """The table of `model`, loaded from `checkpoint`: as kept, or measured now and kept."""
        timed = Timed.of(checkpoint, model, most_rows)
        file = self._file(timed)
        if file is None:
            return measure(model, most_rows)
        if kept := self.kept(timed):
            return kept
        table = measure(model, most_rows)
        try:
            replace_whole(file, msgspec.json.encode(table))
        except OSError as error:
            log.info("what passes take is measured at every start: %s", error.strerror)
        return table

    def kept(self, timed: Timed) -> CostTable | None:
        """The table of `timed`, if there is one that is of use."""
        file = self._file(timed)
        try:
            return file and msgspec.json.decode(file.read_bytes(), type=CostTable)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _file(self, timed: Timed) -> Path | None:
        return self._folder and self._folder / f"{timed.digest()}.json"
