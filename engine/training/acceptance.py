"""How many tokens a pass of the target yields with one draft or another: what a draft is for."""

from __future__ import annotations

from collections.abc import Sequence

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.costs import CostTable
from engine.decode import Decoder, Step
from engine.draft.base import Drafter, TreeLimits
from engine.draft.lookup import PromptDrafter
from engine.draft.model import ModelDrafter
from engine.loaded import LoadedEngine
from engine.model import Transformer
from engine.policy import DynamicPolicy
from engine.protocol import StopSpec
from engine.sampling import SamplingParams
from engine.training.examples import Opening
from engine.training.progress import watched

MAX_TOKENS = 64
ENDLESS_MS = 1e6
"""Of a pass beside which drafting takes no time."""


def full_trees(drafters: Sequence[Drafter], limits: TreeLimits) -> DynamicPolicy:
    """Trees as large as `limits` allow and `drafters` can fill, whatever that costs."""
    return DynamicPolicy(drafters, limits, CostTable.flat(ENDLESS_MS))


def free_drafter(model: Transformer, max_length: int, limits: TreeLimits) -> ModelDrafter:
    """`model` as a drafter for `full_trees` of `limits`."""
    return ModelDrafter(model, max_length, limits.most_grown, CostTable.flat())


def tokens_per_pass(
    engine: LoadedEngine, config: EngineConfig, draft: str | None, openings: Sequence[Opening]
) -> float:
    """Tokens that a pass of the target gives over all `openings`, greedily, with the draft and n-grams.

    `draft` None: n-grams alone. `config` says what trees may look like. Raises CheckpointError.
    """
    limits = TreeLimits.of(config)
    max_length = engine.decoder.max_length
    drafters: list[Drafter] = [PromptDrafter()]
    if draft is not None:
        model = Transformer.load(Checkpoint.open(find(draft)), config.device, config.dtype)
        drafters.append(free_drafter(model, max_length, limits))
    decoder = Decoder(engine.decoder.target, full_trees(drafters, limits), max_length)
    title = f"measuring {'n-grams alone' if draft is None else 'the draft'}"
    lasts = [_last_step(engine, decoder, opening.tokens) for opening in watched(openings, title)]
    return sum(s.counts.generated for s in lasts) / sum(s.counts.target_passes for s in lasts)


def _last_step(engine: LoadedEngine, decoder: Decoder, prompt: Sequence[int]) -> Step:
    *_, last = decoder.generate(
        prompt,
        decoder.new_slot(),
        SamplingParams(),
        engine.text_stream(prompt, StopSpec()),
        max_tokens=MAX_TOKENS,
        speculative=True,
        before_layer=lambda _: None,
    )
    return last
