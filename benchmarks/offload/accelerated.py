"""accelerate's way of offloading, by its own code: hooks that fetch a module's weights before its forward.

`attach_align_device_hook` is what its `cpu_offload` and its `device_map` come down to. Importing this needs
accelerate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from accelerate import hooks  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn

from benchmarks.offload.shapes import COPY_LAUNCH_MS
from benchmarks.offload.synthetic import Synthetic
from benchmarks.offload.umbrella import PassCosts
from engine.layers import Layer, ResidentLayers
from engine.linear import Linear
from engine.low_bit.form import Shape
from engine.low_bit.linear import QuantisedLinear
from engine.offload.layout import fused_linears

Multiply = Callable[[Mapping[str, Tensor], Tensor], Tensor]


class Weights(nn.Module):
    """A linear layer whose tensors accelerate brings before each product, and takes away after it."""

    def __init__(
        self, parts: Mapping[str, Tensor], multiply: Multiply, in_features: int = 0, out_features: int = 0
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._multiply = multiply
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        return self._multiply(dict(self.named_parameters()), x)


class Fetched(Mapping[str, Tensor]):
    """The weights as accelerate asks for them, by name; `fetch` makes each of them."""

    def __init__(self, names: tuple[str, ...], fetch: Callable[[str], Tensor]) -> None:
        self._names, self._fetch = names, fetch

    def __getitem__(self, name: str) -> Tensor:
        return self._fetch(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def offload(module: nn.Module, device: torch.device, fetch: Callable[[str], Tensor]) -> None:
    """Have accelerate bring all weights of `module` to `device` as they are needed, from `fetch`."""
    names = tuple(name for name, _ in module.named_parameters())
    hooks.attach_align_device_hook(  # pyright: ignore[reportUnknownMemberType]
        module,
        execution_device=device,
        offload=True,
        weights_map=cast("dict[str, Tensor]", Fetched(names, fetch)),
    )


class _Clock:
    """A virtual one."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def advance(self, ms: float) -> None:
        self.now_ms += ms


MODULES, PARTS = 7, 3
"""Linear layers of a decoder layer, and tensors of each."""


def virtual_pass_ms(costs: PassCosts, resident: int) -> float:
    """Of a pass and the drafting before it, on a virtual clock, in accelerate's own order.

    The `resident` layers in device memory are the first ones, as a `device_map` places them.
    """
    clock = _Clock()
    clock.advance(costs.draft_ms)

    def multiply(_parts: Mapping[str, Tensor], x: Tensor) -> Tensor:
        clock.advance(costs.layer_ms / MODULES)
        return x

    def fetch(_name: str) -> Tensor:
        clock.advance(costs.copy_ms / (MODULES * PARTS) + COPY_LAUNCH_MS)
        return torch.zeros(1)

    model = nn.Sequential()
    for index in range(costs.num_layers):
        parts = {f"part_{part}": torch.zeros(1) for part in range(PARTS)}
        layer = nn.Sequential(*(Weights(parts, multiply) for _ in range(MODULES)))
        if index >= resident:
            offload(layer, torch.device("cpu"), fetch)
        model.append(layer)
    model(torch.zeros(1))
    return clock.now_ms + costs.head_ms


def accelerated(
    model: Synthetic, resident: Sequence[int], device: torch.device, fetch: Callable[[str], Tensor]
) -> ResidentLayers:
    """All layers, with the weights of those that are not `resident` under accelerate's hooks.

    `fetch` gives a part of the block by its name in the layout, as accelerate is to find it: on the host.
    """
    at_home = model.source.block.to(device)
    linears = model.builder.linears(model.source.of_layer, at_home)
    layers: list[Layer] = []
    for index in range(model.config.num_layers):
        if index in resident:
            layers.append(model.builder.layer(index, linears))
            continue
        hooked: dict[str, Linear] = {}
        for name, (parts, multiply) in _parts(model).items():
            weights = Weights(parts, multiply, linears[name].in_features, linears[name].out_features)
            offload(weights, device, partial(_named, fetch, name))
            hooked[name] = weights
        layers.append(model.builder.layer(index, hooked))
    return ResidentLayers(layers)


def _named(fetch: Callable[[str], Tensor], linear: str, part: str) -> Tensor:
    return fetch(f"{linear}.{part}")


def _parts(model: Synthetic) -> dict[str, tuple[dict[str, Tensor], Multiply]]:
    """Of each linear layer its tensors, by their names within it, and what multiplies with them."""
    how = model.config.quantization
    assert how is not None
    views = model.source.of_layer.views(model.source.block)
    found: dict[str, tuple[dict[str, Tensor], Multiply]] = {}
    for fused in fused_linears(model.config):
        prefix = f"{fused.name}."
        parts = {name.removeprefix(prefix): view for name, view in views.items() if name.startswith(prefix)}
        of_fused = fused.quantised(how)

        def multiply(brought: Mapping[str, Tensor], x: Tensor, shape: Shape = of_fused) -> Tensor:
            return QuantisedLinear(brought, shape, None, model.kernels)(x)

        found[fused.name] = (parts, multiply)
    return found
