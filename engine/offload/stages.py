"""Layers spread over several devices, one run of them on each, as accelerate's ``device_map`` has it. Pure.

A pass goes through the devices one after the other. All but the layers, with their keys and values, is on the
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """So many layers on one device, behind those of the stage before."""

    device: str
    """As torch calls it."""
    layers: int


def split(rooms: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...] | None:
    """How many of the layers, of `sizes` bytes, go to each device, in order; None if they do not fit.

    No device is filled to a larger part of its room than it takes.
    """
    for percent in range(1, 101):
        counts = _filled([room * percent // 100 for room in rooms], sizes)
        if sum(counts) == len(sizes):
            return counts
    return None


def _filled(rooms: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """How many layers each device takes if it takes all that it has room for."""
    counts: list[int] = []
    for room in rooms:
        begin = end = sum(counts)
        while end < len(sizes) and sum(sizes[begin : end + 1]) <= room:
            end += 1
        counts.append(end - begin)
    return tuple(counts)
