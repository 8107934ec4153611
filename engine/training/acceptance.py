"""How many tokens a pass of the target yields with one draft or another: what a draft is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.config import EngineConfig
from engine.decode import Step
from engine.loaded import LoadedEngine
from engine.protocol import StopSpec
from engine.sampling import SamplingParams
from engine.training.examples import Opening
from engine.training.progress import watched


def tokens_per_pass(
    config: EngineConfig, draft: str | None, openings: Sequence[Opening], max_tokens: int = 64
) -> float:
    """Tokens emitted by the passes of the target over all `openings`, greedily; `draft` None: n-grams alone.

    Raises CheckpointError or ConfigError if the models cannot be loaded together.
    """
    engine = LoadedEngine.load(replace(config, draft_model=draft), lambda _: None)
    title = f"measuring {'n-grams alone' if draft is None else 'the draft'}"
    lasts = [_last_step(engine, opening.tokens, max_tokens) for opening in watched(openings, title)]
    return sum(s.counts.generated for s in lasts) / sum(s.counts.target_passes for s in lasts)


def _last_step(engine: LoadedEngine, prompt: Sequence[int], max_tokens: int) -> Step:
    decoder = engine.decoder
    *_, last = decoder.generate(
        prompt,
        decoder.new_slot(),
        SamplingParams(),
        engine.text_stream(prompt, StopSpec()),
        max_tokens=max_tokens,
        speculative=True,
        before_layer=lambda _: None,
    )
    return last
