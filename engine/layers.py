"""A decoder layer's weights, and where a pass finds them. Knows nothing of checkpoints or devices.

A pass walks through the layers of a store in order. Where they all lie in memory that is a walk along a
list; where they stream from elsewhere (`engine.offload`) the store fetches ahead of the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.linear import Linear, RmsNorm

BeforeLayer = Callable[[int], None]
"""Called before each layer with its index. May raise, which ends the pass, and may run other passes."""


@dataclass(frozen=True, slots=True)
class Norms:
    """One decoder layer's norms."""

    attention: RmsNorm
    qk: RmsNorm | None
    mlp: RmsNorm


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer's weights."""

    attention_norm: RmsNorm
    qkv: Linear
    """Queries, keys and values side by side: -> [rows, (heads + 2 * kv_heads) * head_dim]."""
    qk_norm: RmsNorm | None
    """Of each head's queries and keys, [rows, heads + kv_heads, head_dim]."""
    attention_out: Linear
    mlp_norm: RmsNorm
    gate_up: Linear
    """-> [rows, 2 * intermediate_size]."""
    down: Linear

    @staticmethod
    def of(norms: Norms, linears: Mapping[str, Linear]) -> Layer:
        """With `linears` by the names that `engine.offload.layout.fused_linears` gives them."""
        return Layer(
            attention_norm=norms.attention,
            qkv=linears["qkv"],
            qk_norm=norms.qk,
            attention_out=linears["attention_out"],
            mlp_norm=norms.mlp,
            gate_up=linears["gate_up"],
            down=linears["down"],
        )


class LayerStore(Protocol):
    """The layers of one model. Belongs to the thread that runs it."""

    def __len__(self) -> int: ...

    @property
    def in_place(self) -> bool:
        """Whether every layer stays at one address for good, so that a pass may be recorded."""
        ...

    def walk(self, before_layer: BeforeLayer) -> Generator[Layer]:
        """Yield each layer in turn, having called `before_layer`; right until the next is asked for.

        Close it, wherever the pass ends. Walks may be nested: `before_layer` may run whole other passes.
        Raises DeviceError where a layer cannot be had; the next walk starts afresh.
        """
        ...

    def wait_ms(self, layer: int) -> float:
        """How long the device will have nothing to do before `layer` has come, as far as can be told now.

        0.0 for one that is there. Asked from within `before_layer`: that long, other work costs nothing.
        """
        ...

    def shrink(self) -> bool:
        """Give back some of the device's memory by having fewer layers stay there. False if there is none.

        Not while a layer is in use: from within `before_layer`, or between two walks.
        """
        ...

    @property
    def split(self) -> tuple[int, int, int]:
        """How many layers stay on the device, come from host memory at every pass, and come from disk."""
        ...

    def close(self) -> None:
        """Give everything back; no walk can begin any more. Harmless when it is done already."""
        ...


class ResidentLayers:
    """Layers that all stay where they are."""

    in_place = True

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)

    def __len__(self) -> int:
        return len(self._layers)

    def walk(self, before_layer: BeforeLayer) -> Generator[Layer]:
        for index, layer in enumerate(self._layers):
            before_layer(index)
            yield layer

    def wait_ms(self, layer: int) -> float:  # noqa: ARG002 - whichever it is
        return 0.0

    def shrink(self) -> bool:
        return False

    @property
    def split(self) -> tuple[int, int, int]:
        return len(self._layers), 0, 0

    def close(self) -> None:
        self._layers = ()
