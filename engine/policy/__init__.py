"""Tree policies: which guesses the target is asked to verify."""

from engine.policy.base import PolicySession, TreePolicy
from engine.policy.dynamic import DynamicPolicy
from engine.policy.growmap import GrowMap
from engine.policy.plain import PlainPolicy
from engine.policy.static import StaticPolicy

__all__ = ["DynamicPolicy", "GrowMap", "PlainPolicy", "PolicySession", "StaticPolicy", "TreePolicy"]
