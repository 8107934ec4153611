"""From a configuration to a tree policy: which drafters there are, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.costs import CostCache, CostTable
from engine.draft.base import Drafter, TreeLimits
from engine.draft.lookup import PreviousDrafter, PromptDrafter, Searchable, WorkspaceDrafter
from engine.draft.model import ModelDrafter
from engine.model import Transformer
from engine.policy import DynamicPolicy, GrowMap, PlainPolicy, StaticPolicy, TreePolicy
from engine.policy.dynamic import most_grown

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


def tree_limits(config: EngineConfig) -> TreeLimits:
    """The bounds on trees that `config` sets."""
    return TreeLimits(config.tree_size - 1, config.depth, config.width, config.num_beams)


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
    draft: TimedModel | None,
    max_length: int,
    workspaces: Workspaces = no_workspaces,
    vocab_size: int | None = None,
) -> DynamicPolicy:
    """Trees of every drafter there is, those that cost nothing first.

    `vocab_size`: how many ids the target knows, if that is not what the draft does.
    """
    drafters: list[Drafter] = [PreviousDrafter(), PromptDrafter(), WorkspaceDrafter(workspaces)]
    if draft is not None:
        most = most_grown(limits)
        drafters.append(ModelDrafter(draft.transformer, max_length, most, draft.costs, vocab_size))
    return DynamicPolicy(drafters, limits, target)


def tree_policy(
    config: EngineConfig,
    target: TimedModel,
    draft: TimedModel | None,
    grow_map: GrowMap | None,
    max_length: int,
    workspaces: Workspaces,
) -> TreePolicy:
    """The policy that `config` asks for."""
    if config.engine == "ar":
        return PlainPolicy()
    vocab_size = target.transformer.config.vocab_size
    if grow_map is not None and draft is not None:
        drafter = ModelDrafter(draft.transformer, max_length, len(grow_map), draft.costs, vocab_size)
        return StaticPolicy(drafter, grow_map)
    return dynamic_policy(tree_limits(config), target.costs, draft, max_length, workspaces, vocab_size)
