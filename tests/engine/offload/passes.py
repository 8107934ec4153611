"""Passes of a model, some of whose layers stream, as a store of layers makes them: cut short, and nested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from engine.offload.ring import Ring

LAYERS = 9
Use = Callable[[int, int | None], None]
"""Computes a layer, which is in that slot; None for one that stays on the device."""


@dataclass(frozen=True)
class Walk:
    """A pass that ends before layer `stop`, with others inside it, each before some layer."""

    stop: int = LAYERS
    inside: dict[int, Walk] = field(default_factory=dict[int, "Walk"])


def walk(ring: Ring, streamed: list[int], use: Use, todo: Walk, *, asks: bool = False) -> None:
    """Before each layer the pass `asks` how long it will have to wait, or it does not."""
    done = 0
    try:
        for layer in range(todo.stop):
            if layer in todo.inside:
                walk(ring, streamed, use, todo.inside[layer], asks=asks)
            if layer in streamed:
                if asks:
                    ring.left_ms(layer)
                use(layer, ring.take(layer))
                ring.release(layer)
            else:
                use(layer, None)
                ring.keep_pace()
            done = layer + 1
    finally:
        if done < LAYERS:
            ring.rewind()


def _walks(depth: int) -> st.SearchStrategy[Walk]:
    stops = st.integers(0, LAYERS)
    if depth == 0:
        return st.builds(Walk, stops)
    inside = st.dictionaries(st.integers(0, LAYERS - 1), _walks(depth - 1), max_size=2)
    return st.builds(Walk, stops, inside)


PASSES = st.lists(_walks(2), max_size=5)
STREAMED = st.sets(st.integers(0, LAYERS - 1), min_size=1).map(sorted)
