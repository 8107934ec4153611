"""Rows of token ids for next-token training: examples joined end to end, and drills among them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.templates import TEMPLATES
from engine.tokenizer import Tokenizer
from engine.training.corpus import SourceFile
from engine.training.examples import ExampleMaker, ExampleMix
from engine.training.progress import disk_full_is_an_error_of_ours

PARTS = 2
"""Packages are dealt into so many parts, each with its own seed, whatever the number of cores."""
SMALL = 2_000_000
"""Characters under which starting processes costs more than it saves."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How code becomes rows: a tokenizer's folder, a template's name, tokens a row."""

    tokenizer: Path
    template: str
    length: int


def drills(pool: NDArray[Any], rows: int, length: int, seed: int) -> NDArray[Any]:
    """Rows that only copying can predict: runs of ids drawn at random from `pool`, and pieces of them again.

    They make a small model grow induction heads (Olsson et al. 2022) within a few hundred thousand
    tokens, which code alone did not in ten million. Returns [rows, length + 1].
    """
    rng = np.random.default_rng(seed)
    drilled = np.empty((rows, length + 1), dtype=pool.dtype)
    for row in drilled:
        runs: list[NDArray[Any]] = []
        written: list[NDArray[Any]] = []
        while sum(map(len, written)) <= length:
            if runs and rng.random() < 0.5:
                run = runs[rng.integers(len(runs))]
                start = rng.integers(max(1, len(run) - 8))
                written.append(run[start : start + rng.integers(8, 64)])
            else:
                runs.append(pool[rng.integers(len(pool), size=rng.integers(16, 200))])
                written.append(runs[-1])
        row[:] = np.concatenate(written)[: length + 1]
    return drilled


def pack(examples: Iterator[list[int]], length: int, vocabulary: int) -> NDArray[Any]:
    """Join examples end to end and cut them into rows of `length` + 1 ids: [rows, length + 1].

    A row's last id is the next row's first. What does not fill a row is left out.
    """
    kind = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    stream = np.fromiter((token for example in examples for token in example), dtype=kind)
    rows = max(0, (len(stream) - 1) // length)
    if not rows:
        return np.empty((0, length + 1), kind)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[: rows * length : length].copy()


def _examples(files: Sequence[SourceFile], form: RowFormat, mix: ExampleMix, seed: int) -> list[list[int]]:
    maker = ExampleMaker(files, Tokenizer.load(form.tokenizer), TEMPLATES[form.template], mix, seed)
    return [example.tokens for example in maker.epoch()]


def make_rows(files: Sequence[SourceFile], form: RowFormat, mix: ExampleMix, seed: int) -> NDArray[Any]:
    """One epoch of `files`, shuffled, with drills among it: [rows, length + 1]."""
    packages = sorted({file.package for file in files})
    parts = [part for i in range(PARTS) if (part := [f for f in files if f.package in packages[i::PARTS]])]
    seeds = range(seed, seed + len(parts))
    if sum(len(file.text) for file in files) < SMALL:
        made = [_examples(part, form, mix, own) for part, own in zip(parts, seeds, strict=True)]
    else:
        with ProcessPoolExecutor(min(PARTS, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
            made = list(pool.map(_examples, parts, repeat(form), repeat(mix), seeds))
    examples = [example for part in made for example in part]
    vocabulary = Tokenizer.load(form.tokenizer).vocab_size
    rows = pack(iter(examples), form.length, vocabulary)
    rng = np.random.default_rng(seed)
    pool_rows = rows[: max(1, len(rows) // 20)]
    drilled = drills(pool_rows.ravel(), int(mix.drill * len(rows)), form.length, seed)
    # Drills crowd at the beginning: a third of the first rows, a thirtieth of the last.
    when = np.concatenate([rng.random(len(rows)), rng.random(len(drilled)) ** 3])
    return np.concatenate([rows, drilled])[np.argsort(when)]


def save_rows(rows: NDArray[Any], path: Path) -> None:
    """Write `rows` to `path` at once or not at all. Raises TrainingError if the disk is full."""
    with disk_full_is_an_error_of_ours(path.parent):
        temporary = path.with_suffix(".tmp.npy")
        try:
            np.save(temporary, rows)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
