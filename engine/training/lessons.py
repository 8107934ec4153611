"""What a draft learns from its target: the target's own continuations, and its probabilities along them.

The target runs in the engine, so whatever the engine serves can teach: AWQ INT4, streamed, on any device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from engine.decode import Decoder, Slot
from engine.errors import TrainingError
from engine.model import Block
from engine.protocol import StopReason
from engine.sampling import SamplingParams
from engine.training.examples import Opening
from engine.training.progress import disk_full_is_an_error_of_ours, watched

KEPT = 32
"""Tokens whose probability is kept at each position; the rest is kept as a sum."""
SHARD = 64
"""Lessons a file: what a crash can cost."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Rows of text with the target's opinion of what follows each position.

    Attributes:
        tokens: [lessons, length] ids, padded at the right.
        taught: [lessons, length] whether there is an opinion at a position.
        best: [lessons, length, KEPT] ids of the most probable next tokens, best first.
        logprobs: [lessons, length, KEPT] their natural log-probabilities, float16.

    """

    tokens: NDArray[Any]
    taught: NDArray[np.bool_]
    best: NDArray[Any]
    logprobs: NDArray[np.float16]

    @staticmethod
    def load(folder: Path) -> Lessons:
        """All shards of `folder`."""
        shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        names = ("tokens", "taught", "best", "logprobs")
        return Lessons(*(np.concatenate([shard[name] for shard in shards]) for name in names))


class _Ends:
    """Ends a generation at a token that ends the answer."""

    def __init__(self, ends: frozenset[int]) -> None:
        self._ends = ends

    def push(self, token: int) -> StopReason | None:
        return StopReason.END if token in self._ends else None


def missing(folder: Path, count: int) -> bool:
    """Whether `folder` lacks any of `count` lessons."""
    return any(not _shard(folder, start).exists() for start in range(0, count, SHARD))


def _shard(folder: Path, start: int) -> Path:
    return folder / f"{start:08d}.safetensors"


@dataclass(frozen=True, slots=True)
class Teacher:
    """A target that writes and is asked what it thinks on the way."""

    decoder: Decoder
    end_tokens: frozenset[int]
    length: int
    """Tokens of a lesson."""
    continuation: int
    """How many of them the target may write."""
    seed: int = 0

    def teach(self, openings: Iterable[Opening], count: int, folder: Path) -> None:
        """Write `count` lessons to `folder`, going on after the shards that are there.

        `openings` are taken in order, one a lesson, so the same ones give the same lessons. Raises
        TrainingError if they run out before the first shard, or the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        source = iter(openings)
        starts = range(0, count, SHARD)
        for start in watched(starts, "asking the target"):
            path = _shard(folder, start)
            chosen = list(islice(source, min(SHARD, count - start)))
            if path.exists():
                continue
            if not chosen:
                break
            lessons = [self._lesson(opening, start + i) for i, opening in enumerate(chosen)]
            stacked = {name: np.stack([lesson[name] for lesson in lessons]) for name in lessons[0]}
            with disk_full_is_an_error_of_ours(folder):
                temporary = path.with_suffix(".tmp")
                try:
                    save_file(stacked, temporary)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        if not any(folder.glob("*.safetensors")):
            raise TrainingError("no prompt is short enough for a lesson; give more code, or a larger context")

    def _lesson(self, opening: Opening, number: int) -> dict[str, NDArray[Any]]:
        """One row: the opening, what the target writes after it, and its opinion from the code's start on."""
        slot = self.decoder.new_slot()
        tokens = [*opening.tokens, *self._write(opening.tokens, slot, number)][: self.length]
        positions = range(opening.code_start - 1, len(tokens) - 1)
        slot.target.truncate(0)
        logits = self.decoder.target.forward(Block.chain(tokens), slot.target, positions, lambda _: None)
        top = logits.float().log_softmax(-1).topk(KEPT)
        row: dict[str, NDArray[Any]] = {
            "tokens": np.zeros(self.length, np.int32),
            "taught": np.zeros(self.length, np.bool_),
            "best": np.zeros((self.length, KEPT), np.int32),
            "logprobs": np.zeros((self.length, KEPT), np.float16),
        }
        row["tokens"][: len(tokens)] = tokens
        row["taught"][positions.start : positions.stop] = True
        row["best"][positions.start : positions.stop] = top.indices.cpu().numpy()
        row["logprobs"][positions.start : positions.stop] = top.values.cpu().numpy()
        return row

    def _write(self, prompt: Sequence[int], slot: Slot, number: int) -> Iterator[int]:
        """The target's continuation: greedy in every other lesson, sampled in the rest."""
        params = SamplingParams(temperature=float(number % 2), seed=self.seed + number)
        steps = self.decoder.generate(
            prompt,
            slot,
            params,
            _Ends(self.end_tokens),
            max_tokens=self.continuation,
            speculative=True,
            before_layer=lambda _: None,
        )
        return (token for step in steps for token in step.tokens)
