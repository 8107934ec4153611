"""How long a pass takes whose layers stream, before there is one: `Ring` on a virtual clock. Torch-free.

The ring's decisions are the real ones; the times of a copy and of a layer are given, and the result is exact
for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.offload.ring import Ring
from engine.offload.virtual import VirtualLink

_PASSES, _MEASURED = 8, 4
"""Passes in all, and the last of them that are measured: by then each is like the one before it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do again and again: one pass of the target, and the drafting that belongs to it."""

    num_layers: int
    streamed: Sequence[int]
    """Of the layers, those that are not on the device, ascending."""
    slots: int
    copy_ms: Callable[[int], float]
    """How long the link takes for a streamed layer."""
    layer_ms: float
    """How long the device computes a layer, whichever."""
    head_ms: float = 0.0
    """What the device does after the last layer."""
    draft_ms: float = 0.0
    """Drafting on the device that has to be done between two passes."""
    wait_draft_ms: float = 0.0
    """Drafting that may also be done within the pass, while a layer is on its way; what is left of it then is
    done between two passes."""
    draft_step_ms: float = 1.0
    """Of that, how much is done without a break."""
    read_ms: Callable[[int], float] = lambda _layer: 0.0
    """How long a layer takes to be read from disk before it is copied; 0.0 if it is in memory."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the work comes to once it runs steadily. All times are for one pass."""

    pass_ms: float
    """From the beginning of a pass to that of the next one."""
    stream_ms: float
    """What the link is busy for."""
    compute_ms: float
    """What layers and head take on the device."""
    disk_ms: float
    """What the disk is busy for."""
    link_utilisation: float
    exposed_draft_ms: float
    """How much shorter a pass were without any drafting."""
    cancel_to_idle_ms: float
    """At worst, from a cancel to the moment when the device does not compute any more."""

    @property
    def bound_ms(self) -> float:
        """What no schedule can undercut."""
        return max(self.stream_ms, self.disk_ms, self.compute_ms)


def simulate(work: Work) -> Schedule:
    """The steady state of `work`."""
    pass_ms, busy_ms, disk_ms, cancel_ms = _run(work)
    drafting = work.draft_ms > 0.0 or work.wait_draft_ms > 0.0
    alone_ms = _run(replace(work, draft_ms=0.0, wait_draft_ms=0.0))[0] if drafting else pass_ms
    return Schedule(
        pass_ms=pass_ms,
        stream_ms=busy_ms,
        compute_ms=work.num_layers * work.layer_ms + work.head_ms,
        disk_ms=disk_ms,
        link_utilisation=busy_ms / pass_ms if pass_ms else 0.0,
        exposed_draft_ms=pass_ms - alone_ms,
        cancel_to_idle_ms=cancel_ms,
    )


def _run(work: Work) -> tuple[float, float, float, float]:
    """Per pass, when it runs steadily, in ms: its time, what link and disk are busy for, a cancel's."""
    link = VirtualLink(work.copy_ms, work.read_ms)
    ring = Ring(work.streamed, work.slots, link) if work.streamed else None
    begun_ms = busy_ms = disk_ms = cancel_ms = 0.0
    for number in range(_PASSES):
        if number == _PASSES - _MEASURED:
            begun_ms, busy_ms, disk_ms = link.now_ms, link.link_busy_ms, link.disk_busy_ms
            cancel_ms = 0.0
        cancel_ms = max(cancel_ms, _one_pass(work, link, ring))
    return (
        (link.now_ms - begun_ms) / _MEASURED,
        (link.link_busy_ms - busy_ms) / _MEASURED,
        (link.disk_busy_ms - disk_ms) / _MEASURED,
        cancel_ms,
    )


def _one_pass(work: Work, link: VirtualLink, ring: Ring | None) -> float:
    """Draft, then walk through the layers. Returns how long a cancel would have taken at worst."""
    link.compute(work.draft_ms)
    link.catch_up(link.mark())
    left_ms = work.wait_draft_ms
    streamed = frozenset(work.streamed)
    asked_ms, cancel_ms = link.now_ms, 0.0
    for layer in range(work.num_layers):
        taken = ring if layer in streamed else None
        while taken and left_ms > 0.0 and taken.left_ms(layer) >= work.draft_step_ms:
            left_ms -= _draft(work, link, left_ms)
        # A cancel that comes now is noticed before the next layer: this one is the last.
        asked_ms = link.now_ms
        if taken:
            taken.take(layer)
        link.compute(work.layer_ms)
        cancel_ms = max(cancel_ms, link.computed_ms - asked_ms)
        if taken:
            taken.release(layer)
        elif ring:
            ring.keep_pace()
    link.compute(work.head_ms)
    cancel_ms = max(cancel_ms, link.computed_ms - asked_ms)
    link.catch_up(link.mark())
    while left_ms > 0.0:
        left_ms -= _draft(work, link, left_ms)
    return cancel_ms


def _draft(work: Work, link: VirtualLink, left_ms: float) -> float:
    """Do one step of the `left_ms` that are to be drafted, and say how long it took."""
    step_ms = min(work.draft_step_ms, left_ms)
    link.compute(step_ms)
    link.catch_up(link.mark())
    return step_ms
