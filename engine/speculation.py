"""From a configuration to a tree policy: which drafters there are, and what they may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.config_tables import numbered
from engine.costs import CostCache, CostTable
from engine.draft.base import Drafter, TreeLimits
from engine.draft.lookup import PreviousDrafter, PromptDrafter, Searchable, WorkspaceDrafter
from engine.draft.model import ModelDrafter
from engine.model import Transformer
from engine.policy import DynamicPolicy, GrowMap, PlainPolicy, StaticPolicy, TreePolicy

Workspaces = Callable[[str], Searchable | None]
"""Finds the text of a workspace to draft from, by its key."""


def no_workspaces(_key: str) -> None:
    """Where nobody pushes any text."""


@dataclass(frozen=True, slots=True)
class TimedModel:
    """A model, and what its passes take."""

    transformer: Transformer
    costs: CostTable

    @staticmethod
    def of(checkpoint: Checkpoint, transformer: Transformer, most_rows: int) -> TimedModel:
        """`transformer`, loaded from `checkpoint`, with the times that are kept of it or measured now."""
        return TimedModel(transformer, CostCache.of_user().table(checkpoint, transformer, most_rows))


def read_grow_map(config: EngineConfig, max_length: int) -> GrowMap | None:
    """The shape of static trees, where `config` wants them. Raises ConfigError if it cannot be used."""
    if config.engine != "static" or config.growmap_path is None:
        return None
    return GrowMap.read(Path(config.growmap_path), max_length)


def most_rows(config: EngineConfig, grow_map: GrowMap | None) -> int:
    """Rows of the widest tree that `config` can lead to."""
    return 1 if config.engine == "ar" else len(grow_map) if grow_map is not None else config.tree_size


def dynamic_policy(
    limits: TreeLimits,
    target: CostTable,
    drafts: Sequence[TimedModel],
    max_length: int,
    workspaces: Workspaces = no_workspaces,
    vocab_size: int | None = None,
) -> DynamicPolicy:
    """Trees of every drafter there is, those that cost nothing first, then models, the fastest first.

    A dear one then judges in one pass what a cheap one has guessed in many. `vocab_size`: how many ids the
    target knows, if that is not what the drafts do.
    """
    free: list[Drafter] = [PreviousDrafter(), PromptDrafter(), WorkspaceDrafter(workspaces)]
    named = zip(numbered("model", len(drafts)), drafts, strict=True)
    models = (
        ModelDrafter(draft.transformer, max_length, limits.most_grown, draft.costs, vocab_size, name)
        for name, draft in sorted(named, key=lambda pair: pair[1].costs.ms(1))
    )
    return DynamicPolicy([*free, *models], limits, target)


def tree_policy(
    config: EngineConfig,
    target: TimedModel,
    drafts: Sequence[TimedModel],
    grow_map: GrowMap | None,
    max_length: int,
    workspaces: Workspaces,
) -> TreePolicy:
    """The policy that `config` asks for."""
    if config.engine == "ar":
        return PlainPolicy()
    vocab_size = target.transformer.config.vocab_size
    if grow_map is not None:
        (draft,) = drafts
        drafter = ModelDrafter(draft.transformer, max_length, len(grow_map), draft.costs, vocab_size)
        return StaticPolicy(drafter, grow_map)
    limits = TreeLimits.of(config)
    return dynamic_policy(limits, target.costs, drafts, max_length, workspaces, vocab_size)
