"""Drafters: cheap guesses at what the target will say, grown into one token tree."""

from engine.draft.base import Drafter, DraftSession, TreeLimits
from engine.draft.model import ModelDrafter
from engine.draft.ngram import NgramDrafter

__all__ = ["DraftSession", "Drafter", "ModelDrafter", "NgramDrafter", "TreeLimits"]
