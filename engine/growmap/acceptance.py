"""Which of a draft's choices the target draws, measured where the target's own text leads.

The target goes on from many places in a text, speculatively, which changes no token. The draft model then
reads what it wrote, and each token's place among the draft's choices is counted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from engine.backend import BuiltPrompt
from engine.errors import ConfigError
from engine.kv_cache import KVCache
from engine.loaded import LoadedEngine
from engine.model import Block, Transformer
from engine.prefill import prefill
from engine.progress import Progress, untold
from engine.protocol import Segment, StopSpec
from engine.sampling import SamplingParams

RANKS = 32
"""Choices that are told apart; further ones are worth no node."""
CONTINUED = 32
"""Tokens that are written from one place."""
_BEFORE, _AFTER = 3000, 500
"""Characters around a place that the models are told."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of a draft's choices."""

    hits: tuple[int, ...]
    """By rank, the first choice first: how often the target drew it."""
    tokens: int
    """That the target drew in all."""

    @property
    def chances(self) -> tuple[float, ...]:
        """By rank: the probability that it is drawn, with half a hit for what was not seen yet."""
        return tuple((hits + 0.5) / (self.tokens + 1) for hits in self.hits)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text is gone on from: the beginning of a line."""

    file: Path
    before: str
    after: str


def places(files: Sequence[Path]) -> list[Place]:
    """Every one there is in `files`, well mixed, and always in the same order.

    Raises ConfigError if a file cannot be read, or there is none.
    """
    found: list[Place] = []
    for file in files:
        text = _read(file)
        starts = (at for at, character in enumerate(text, start=1) if character == "\n")
        found += [Place(file, text[max(0, at - _BEFORE) : at], text[at : at + _AFTER]) for at in starts]
    if not found:
        raise ConfigError(f"--text: {', '.join(map(str, files))} has no lines; name a file of code")
    random.Random(0).shuffle(found)
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--text: {file} cannot be read ({error.strerror}); name a file of code") from error


def measured(
    engine: LoadedEngine,
    params: SamplingParams,
    places: Sequence[Place],
    wanted: int,
    progress: Progress = untold,
) -> Acceptance:
    """How often the target draws which choice of the engine's first draft model.

    `wanted` tokens are looked at, or what there is. Each of `places` is gone on from with a seed of its own.
    """
    draft, vocab_size = engine.drafts[0].transformer, engine.decoder.target.config.vocab_size
    hits, tokens = torch.zeros(RANKS, dtype=torch.long), 0
    for number, place in enumerate(places):
        if tokens >= wanted:
            break
        progress(tokens / wanted, "Continuing text")
        prompt = _prompt(engine, place)
        written = [*_written(engine, replace(params, seed=params.seed + number), prompt)]
        ranks = _ranks(draft, vocab_size, prompt.tokens, written)
        hits += ranks[ranks < RANKS].bincount(minlength=RANKS)
        tokens += len(written)
    return Acceptance(tuple(cast("list[int]", hits.tolist())), tokens)


def _prompt(engine: LoadedEngine, place: Place) -> BuiltPrompt:
    segments = (Segment("prefix", place.before), Segment("suffix", place.after))
    language = "python" if place.file.suffix == ".py" else ""
    return engine.prompts.code(segments, place.file.name, language, CONTINUED)


def _written(engine: LoadedEngine, params: SamplingParams, prompt: BuiltPrompt) -> Iterator[int]:
    """What the target goes on with after `prompt`."""
    decoder = engine.decoder
    stream = engine.text_stream(prompt.tokens, StopSpec(), prompt.owed)
    steps = decoder.generate(
        prompt.tokens,
        decoder.new_slot(),
        params,
        stream,
        max_tokens=CONTINUED,
        speculative=True,
        before_layer=_nothing,
        constraint=stream,
    )
    for step in steps:
        yield from step.tokens


def _ranks(
    draft: Transformer, vocab_size: int, prompt: Sequence[int], written: Sequence[int]
) -> torch.Tensor:
    """Of each token of `written`: how many the draft, at that place, likes better [len(written)]."""
    cache: KVCache = draft.new_cache(len(prompt) + len(written))
    prefill(draft, cache, prompt, _nothing)
    left = [*prompt[cache.length :], *written[:-1]]
    rows = range(len(left) - len(written), len(left))
    logits = draft.forward(Block.chain(left), cache, rows, _nothing)[:, :vocab_size]
    own = logits.gather(1, torch.tensor(written, device=logits.device)[:, None])
    return (logits > own).sum(-1).cpu()


def _nothing(_layer: int) -> None: ...
