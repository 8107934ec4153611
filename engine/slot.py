"""What one conversation with the models keeps between requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.draft.base import DraftMemory
from engine.kv_cache import KVCache
from engine.lora.adapter import Adapter


@dataclass(slots=True)
class Slot:
    """The target's cache, the drafters' memories, and the text they were last used for."""

    target: KVCache
    drafts: tuple[DraftMemory, ...]
    text: list[int] = field(default_factory=list[int])
    """The last prompt with its answer. Written by the decoder."""

    def reusable(self, tokens: Sequence[int], adapter: object = None) -> int:
        """How many leading `tokens` need no pass of the target with `adapter`."""
        return self.target.common_prefix(tokens) if adapter is self.target.adapter else 0

    def use(self, adapter: object) -> None:
        """Run the target with `adapter` from now on: see `KVCache.use`. Drafts have none: they only guess."""
        assert adapter is None or isinstance(adapter, Adapter)
        self.target.use(adapter)

    def adopt(self, other: Slot, tokens: Sequence[int]) -> None:
        """Take over what `other` has of `tokens`, and its text to draft from, if that is more than our own.

        `other` stays as it is, a pass in flight included.
        """
        shared = other.reusable(tokens, self.target.adapter)
        if shared > self.reusable(tokens, self.target.adapter):
            self.target.adopt(other.target, shared)
            self.text = list(other.text)
        for ours, theirs in zip(self.drafts, other.drafts, strict=True):
            ours.adopt(theirs, tokens)
