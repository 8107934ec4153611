"""Brings a cache near the end of a long prompt, in passes of bounded size. Shared by target and draft."""

from __future__ import annotations

from collections.abc import Sequence

from engine.footprint import PREFILL_ROWS
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.model import Block, Transformer


def prefill(model: Transformer, cache: KVCache, history: Sequence[int], before_layer: BeforeLayer) -> int:
    """Run what of `history` is uncached and too much for one pass. Returns the passes it took.

    At most PREFILL_ROWS tokens are left, for the pass whose logits are wanted. Each pass is kept, so
    that an interruption loses one at most.
    """
    passes = 0
    while len(history) - cache.length > PREFILL_ROWS:
        chunk = list(history[cache.length : cache.length + PREFILL_ROWS])
        model.forward(Block.chain(chunk), cache, [], before_layer)
        cache.keep(range(len(chunk)), chunk)
        passes += 1
    return passes
