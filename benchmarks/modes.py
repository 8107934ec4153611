"""The ways of decoding that are compared: ours as configured, plain, and fixed ones that know no costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.beam import BeamPolicy, BeamShape
from benchmarks.turns import Run
from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.costs import CostTable
from engine.decode import Decoder, Step
from engine.draft.base import TreeLimits
from engine.draft.lookup import PromptDrafter
from engine.draft.model import ModelDrafter
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.loaded import LoadedEngine
from engine.model import Block, Transformer
from engine.policy import DynamicPolicy, PlainPolicy, TreePolicy
from engine.protocol import StopSpec
from engine.sampling import SamplingParams
from engine.speculation import (
    TimedModel,
    dynamic_policy,
    no_workspaces,
    read_grow_map,
    tree_policy,
)
from engine.training.acceptance import ENDLESS_MS, free_drafter, full_trees

PLAIN, OURS, BEAM = "plain", "ours", "beam_16x16"
BEAM_SHAPE = BeamShape(width=16, num_beams=16, depth=16)
NGRAM_SIZES, CHAIN_SIZE, TREE_SIZES = (2, 4, 8, 16), 4, (4, 16)
"""Guesses a pass verifies."""
QUALITY_SIZES = (BEAM_SHAPE.size // 4, BEAM_SHAPE.size)
"""As many guesses as the beam has, and a quarter."""


class Stopwatch:
    """Counts the seconds that two models spend in passes. Their devices are waited for."""

    def __init__(self) -> None:
        self.draft_s = 0.0
        self.verify_s = 0.0

    def watch(self, model: Transformer, *, drafts: bool) -> None:
        """From now on, count the passes of `model`."""
        forward = model.forward

        def timed(block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer) -> Tensor:
            began = time.perf_counter()
            logits = forward(block, cache, rows, before_layer)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            if drafts:
                self.draft_s += time.perf_counter() - began
            else:
                self.verify_s += time.perf_counter() - began
            return logits

        model.forward = timed


@dataclass(frozen=True, slots=True)
class Pair:
    """What a configuration names, loaded, and the clock that runs while its models do."""

    config: EngineConfig
    engine: LoadedEngine
    checkpoint: Checkpoint
    target: TimedModel
    stopwatch: Stopwatch

    @staticmethod
    def load(config: EngineConfig) -> Pair:
        """Raises CheckpointError or ConfigError."""
        engine = LoadedEngine.load(config)
        stopwatch = Stopwatch()
        checkpoint = Checkpoint.open(find(config.model, config.target.revision), config.quantize)
        target = TimedModel(engine.decoder.target, engine.costs)
        stopwatch.watch(target.transformer, drafts=False)
        for draft in engine.drafts:
            stopwatch.watch(draft.transformer, drafts=True)
        return Pair(config, engine, checkpoint, target, stopwatch)

    @property
    def draft(self) -> TimedModel | None:
        """The first draft model, which is all that ways of decoding but ours have."""
        return next(iter(self.engine.drafts), None)

    @property
    def max_length(self) -> int:
        return self.engine.decoder.max_length

    def ours(self) -> TreePolicy:
        """As the engine is configured, with nothing learnt yet."""
        grow_map = read_grow_map(self.config, self.max_length)
        drafts = self.engine.drafts
        return tree_policy(self.config, self.target, drafts, grow_map, self.max_length, no_workspaces)

    def fixed(self) -> dict[str, TreePolicy]:
        """Policies that do the same at every step, by name; numbers are of guesses."""
        found: dict[str, TreePolicy] = {PLAIN: PlainPolicy()}
        for size in NGRAM_SIZES:
            found[f"ngram_{size}"] = full_trees([PromptDrafter()], self._limits(size))
        if self.draft is not None:
            chain = TreeLimits(CHAIN_SIZE, CHAIN_SIZE, width=1, num_beams=1)
            drafter = free_drafter(self.draft.transformer, self.max_length, chain)
            found[f"chain_{CHAIN_SIZE}"] = full_trees([drafter], chain)
            for size in TREE_SIZES:
                found[f"tree_{size}"] = self._full(self.draft, size)
        return found

    def beam(self) -> dict[str, TreePolicy]:
        """UMbreLLa's, if there is a draft model for it."""
        if self.draft is None:
            return {}
        drafter = ModelDrafter(self.draft.transformer, self.max_length, BEAM_SHAPE.size, CostTable.flat())
        return {BEAM: BeamPolicy(drafter, BEAM_SHAPE)}

    def budgets(self) -> dict[str, TreePolicy]:
        """Ours where nothing has a cost: by all drafters, and by the draft model alone; numbers likewise."""
        found: dict[str, TreePolicy] = {}
        if self.draft is not None:
            for size in QUALITY_SIZES:
                limits = self._limits(size)
                drafter = free_drafter(self.draft.transformer, self.max_length, limits)
                found[f"ours_{size}"] = self._full(self.draft, size)
                found[f"ours_{size}_model_alone"] = full_trees([drafter], limits)
        return found

    def _limits(self, size: int) -> TreeLimits:
        # Children as the beam considers them, so that only what is made of them differs.
        beams = max(self.config.num_beams, BEAM_SHAPE.num_beams)
        return TreeLimits(size, min(size, self.config.depth), self.config.width, beams)

    def _full(self, draft: TimedModel, size: int) -> DynamicPolicy:
        free = TimedModel(draft.transformer, CostTable.flat())
        return dynamic_policy(self._limits(size), CostTable.flat(ENDLESS_MS), [free], self.max_length)

    def decoding(self, policy: TreePolicy, max_tokens: int, params: SamplingParams) -> Decoding:
        """The mode that decodes by `policy`."""
        return Decoding(self, Decoder(self.target.transformer, policy, self.max_length), max_tokens, params)


class Decoding:
    """Our loop as the engine runs it, until an end token or `max_tokens`.

    Every run has caches of its own. What the policy has learnt from runs before stays.
    """

    def __init__(self, pair: Pair, decoder: Decoder, max_tokens: int, params: SamplingParams) -> None:
        self._engine = pair.engine
        self._stopwatch = pair.stopwatch
        self._decoder = decoder
        self._max_tokens = max_tokens
        self._params = params

    def run(self, prompt: Sequence[int]) -> Run:
        slot, watch = self._decoder.new_slot(), self._stopwatch
        stream = self._engine.text_stream(prompt, StopSpec())
        began = time.perf_counter()
        generated = self._decoder.generate(
            prompt,
            slot,
            self._params,
            stream,
            max_tokens=self._max_tokens,
            speculative=True,
            before_layer=lambda _: None,
            constraint=stream,
        )
        steps: list[Step] = [next(generated)]
        first_at, draft_s, verify_s = time.perf_counter(), watch.draft_s, watch.verify_s
        steps += generated
        ended = time.perf_counter()
        counts = steps[-1].counts
        return Run(
            tokens=tuple(token for step in steps for token in step.tokens),
            first=len(steps[0].tokens),
            first_s=first_at - began,
            rest_s=ended - first_at if len(steps) > 1 else 0.0,
            draft_s=watch.draft_s - draft_s,
            verify_s=watch.verify_s - verify_s,
            passes=counts.target_passes,
            nodes=counts.drafted,
        )
