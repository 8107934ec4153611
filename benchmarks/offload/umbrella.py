"""UMbreLLa's way of streaming layers, on a virtual clock. Pure.

After `LlamaAwqOffload` and `LlamaOffload.inference` of UMbreLLa (github.com/Infini-AI-Lab/UMbreLLa), from
which no code is taken. It has two buffers. While layer i computes in one, layer i + 1 is copied into the
other, tensor by tensor, 23 of them; then the host waits for the whole device. The first `num_cache_layers`
layers lie in device memory, and are copied into the buffers all the same. After the last layer comes the
first of the next pass, so one layer is there when a pass begins; none is fetched while the draft model runs.

Each of these habits can be left out, which tells what it costs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from benchmarks.offload.shapes import COPY_LAUNCH_MS, SYNCHRONISE_MS
from engine.offload.placement import spread

TENSORS = 23
"""Of a layer: codes, zeros and scales of seven linear layers, and two norms."""
BUFFERS = 2
PASSES = 4
"""Simulated; the last one's time counts."""


@dataclass(frozen=True, slots=True)
class PassCosts:
    """What a pass has to do, whoever schedules it. Times in milliseconds."""

    num_layers: int
    layer_ms: float
    """Of a layer's computation."""
    head_ms: float
    """Of what follows the last layer."""
    copy_ms: float
    """Of a layer's bytes over the link."""
    device_copy_ms: float
    """Of a layer's bytes from device memory to device memory."""
    draft_ms: float
    """Of the draft model, before each pass."""

    @property
    def compute_ms(self) -> float:
        return self.num_layers * self.layer_ms + self.head_ms


@dataclass(frozen=True, slots=True)
class Habits:
    """What UMbreLLa does and a ring of slots does not."""

    per_tensor: bool = True
    """A copy a tensor, not one a layer."""
    synchronise: bool = True
    """The host waits for the whole device after every layer."""
    cached_first: bool = True
    """The layers in device memory are the first ones, not spread among the others."""
    cached_copied: bool = True
    """They are copied into a buffer all the same."""
    draft_in_sequence: bool = True
    """Drafting is not hidden where the device waits for the link."""


def pass_ms(costs: PassCosts, cached: int, habits: Habits = Habits()) -> float:
    """Of a pass, drafting included, in the steady state, with `cached` layers in device memory."""
    layers = range(cached) if habits.cached_first else spread(costs.num_layers, cached) if cached else ()
    run = _Run(costs, frozenset(layers), habits)
    took = 0.0
    for _ in range(PASSES):
        began_ms = run.now_ms
        run.one_pass()
        took = run.now_ms - began_ms
    if habits.draft_in_sequence:
        return took
    return took + max(0.0, costs.draft_ms - (took - costs.compute_ms))


def costs_of_habits(costs: PassCosts, cached: int) -> dict[str, float]:
    """What a pass saves, in milliseconds, by giving up one habit after the other, in this order.

    In sum, all that there is to save. One may be worth nothing before another is given up: layers that lie
    elsewhere help only where the device need not be waited for.
    """
    habits, before_ms, saved = Habits(), pass_ms(costs, cached), dict[str, float]()
    for field in reversed(fields(Habits)):
        habits = replace(habits, **{field.name: False})
        after_ms = pass_ms(costs, cached, habits)
        saved[field.name], before_ms = before_ms - after_ms, after_ms
    return saved


class _Run:
    """The clock, the link and the two buffers. Copies are made one at a time, in the order of layers."""

    def __init__(self, costs: PassCosts, cached: frozenset[int], habits: Habits) -> None:
        self._costs, self._cached, self._habits = costs, cached, habits
        copied = [layer for layer in range(costs.num_layers) if habits.cached_copied or layer not in cached]
        # The layer that takes the buffer of one that has been computed.
        self._successor = {
            layer: copied[(place + BUFFERS) % len(copied)] for place, layer in enumerate(copied)
        }
        self.now_ms = 0.0
        """When all computation issued so far is done; with synchronising, it is the host's time too."""
        self._link_free_ms = 0.0
        self._there_ms: dict[int, float] = {}
        """By layer: when its latest copy ends."""
        for layer in copied[: 1 if habits.synchronise else BUFFERS]:
            self._copy(layer)

    def one_pass(self) -> None:
        costs, habits = self._costs, self._habits
        if habits.draft_in_sequence:
            self.now_ms += costs.draft_ms
        for layer in range(costs.num_layers):
            following = (layer + 1) % costs.num_layers
            if habits.synchronise and following in self._successor:
                self._copy(following)
            self.now_ms = max(self.now_ms, self._there_ms.get(layer, 0.0)) + costs.layer_ms
            if habits.synchronise:
                self.now_ms = max(self.now_ms, self._link_free_ms) + SYNCHRONISE_MS
            elif layer in self._successor:
                self._copy(self._successor[layer])
        self.now_ms += costs.head_ms

    def _copy(self, layer: int) -> None:
        """Into a buffer that is free as soon as what has been issued so far is computed."""
        launches = (TENSORS if self._habits.per_tensor else 1) * COPY_LAUNCH_MS
        moving = self._costs.device_copy_ms if layer in self._cached else self._costs.copy_ms
        self._link_free_ms = max(self._link_free_ms, self.now_ms) + launches + moving
        self._there_ms[layer] = self._link_free_ms
