"""Who is told how far a long piece of work has come. Torch-free; known to every layer of the engine."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Told how much of a piece of work is done, 0 to 1, and what is being done in a few words for people, such as
"Loading layer 12 of 80". What it raises ends that work."""


def untold(_share: float, _what: str) -> None:
    """The `Progress` that nobody waits for."""
