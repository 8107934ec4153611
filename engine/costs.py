"""What a pass takes by its number of rows, T(n): measured when a model is loaded, and kept on disk.

Speculation is worth what a pass of many rows costs less than many passes of one. That depends on the
machine, its kernels and the model, and grows in steps, so it is measured and not assumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from engine import __version__
from engine.checkpoint import Checkpoint
from engine.config import cache_folder
from engine.model import Block, Transformer

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
    affordable = max(2, int(1000 * BUDGET_S / timed(1)))
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


class CostCache:
    """Tables by model and machine, one small file each; without a folder, none is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @staticmethod
    def of_user() -> CostCache:
        """In the user's cache folder, if that is to be found from anywhere."""
        folder = cache_folder()
        return CostCache(folder / "costs" if folder.is_absolute() else None)

    def table(self, checkpoint: Checkpoint, model: Transformer, most_rows: int) -> CostTable:
        """The table of `model`, loaded from `checkpoint`: as kept, or measured now and kept."""
        if self._folder is None:
            return measure(model, most_rows)
        file = self._folder / f"{_fingerprint(checkpoint, model, most_rows)}.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=CostTable)
        except (OSError, msgspec.DecodeError):
            pass  # Not there, or of no use: measured anew.
        table = measure(model, most_rows)
        try:
            _keep(file, table)
        except OSError as error:
            log.info("what passes take is measured at every start: %s", error.strerror)
        return table


def _keep(file: Path, table: CostTable) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place whole, so that another process never reads half of it.
    part = file.with_suffix(f".{os.getpid()}")
    try:
        part.write_bytes(msgspec.json.encode(table))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _fingerprint(checkpoint: Checkpoint, model: Transformer, most_rows: int) -> str:
    """Of everything that a pass's time depends on and that can be told beforehand."""
    device = (
        torch.cuda.get_device_name(model.device)
        if model.device.type == "cuda"
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} x{torch.get_num_threads()}"
    )
    facts = [__version__, torch.__version__, _processor(), device, str(model.dtype), most_rows]
    facts += [repr(checkpoint.config), checkpoint.size_bytes, model.replay is not None]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _processor() -> str:
    """What the CPU is called, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
