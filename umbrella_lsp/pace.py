"""When a target that takes long is worth asking. Pure but for the figures that `Cadence` gathers.

With a fast target nothing here shows: it is asked at once, at every key. A pass of a 70B model that is
streamed from host memory takes a second or three, and one that the next key makes worthless has cost
just that. So the question is put off until the user has paused for so long that they will probably still be
there when the answer comes, and not asked at all where it would hardly be of use.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, replace

SLOW_PASS_MS = 200.0
"""From here on a pass at every key would keep the engine busy with what nobody wants any more."""
PAUSES_MS = (150.0, 300.0, 600.0, 1200.0, 2400.0)
"""How long a slow one may be put off; at least until the next key of a run would have come."""
MS_PER_CHARACTER = 200.0
"""What a character takes to type: the mean gap within recorded runs of typing."""
PRICE = 0.1
"""What a millisecond of the target is worth in milliseconds of the user's."""
LEAST_CHANCE = 0.5
"""Of seeing the answer: below that most passes would be cancelled."""
PASSES = 2.0
"""Target passes that a line takes, about."""
WEIGHT = 0.2
"""Of the newest measurement in the running mean."""
MAX_GAPS = 256
MAX_GAP_MS = 5_000.0
_USUAL_GAPS_MS = (90, 110, 130, 150, 170, 190, 220, 260, 320, 420, 600, 1000, 2000, 4000, 5000, 5000)
"""Gaps between keys as people make them: known of everybody before anything is known of this user."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How long the engine takes. 0: not known, or there is none."""

    pass_ms: float = 0.0
    """Of the target, for one row."""
    draft_ms: float = 0.0
    """Of the draft, for a line of its own."""

    @property
    def is_slow(self) -> bool:
        """Whether the target is not to be asked at every key."""
        return self.pass_ms > SLOW_PASS_MS


class Cadence:
    """The gaps between the user's last keys. Used from one thread; times are in milliseconds."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(_USUAL_GAPS_MS, MAX_GAPS)
        self._last_ms: float | None = None

    def key(self, now_ms: float) -> None:
        """A key was typed."""
        if self._last_ms is not None:
            self._gaps.append(min(now_ms - self._last_ms, MAX_GAP_MS))
        self._last_ms = now_ms

    def stays(self, paused_ms: float, further_ms: float) -> float:
        """The share of pauses of at least `paused_ms` that last for `further_ms` more."""
        gaps = sorted(self._gaps)
        still = len(gaps) - bisect_left(gaps, min(paused_ms, MAX_GAP_MS))
        longer = len(gaps) - bisect_left(gaps, min(paused_ms + further_ms, MAX_GAP_MS))
        return (longer + 1) / (still + 2)


@dataclass(frozen=True, slots=True)
class Worth:
    """What an answer would be worth."""

    accepted: float
    """The chance that it is accepted, 0 to 1."""
    characters: float
    """That would save."""

    @property
    def ms(self) -> float:
        """Of typing that it saves, on average."""
        return self.accepted * self.characters * MS_PER_CHARACTER


def pause_ms(speed: Speed, worth: Worth, cadence: Cadence) -> float | None:
    """How long to wait for another key before the target is asked; None if it is not worth asking.

    The shortest pause after which the user will probably be there until it comes, if then what it saves
    outweighs the passes it takes.
    """
    if not speed.is_slow:
        return 0.0
    lasts_ms = PASSES * speed.pass_ms
    for pause in PAUSES_MS:
        chance = cadence.stays(pause, lasts_ms)
        if chance >= LEAST_CHANCE and chance * worth.ms >= PRICE * lasts_ms:
            return pause
    return None


class Speedometer:
    """How fast the engine is: as it says itself, then as its answers show. Used from one thread."""

    def __init__(self, speed: Speed | None = None) -> None:
        self.speed = speed or Speed()

    @property
    def asks_draft_first(self) -> bool:
        """Whether the draft answers until the target has."""
        return self.speed.is_slow and self.speed.draft_ms > 0

    def told(self, speed: Speed) -> None:
        """What the engine says of itself."""
        self.speed = speed

    def saw_passes(self, passes: int, decode_ms: float) -> None:
        """The target took `decode_ms` for `passes` passes, the first of which is not among them."""
        if passes >= 1:
            now = decode_ms / passes
            before = self.speed.pass_ms
            self.speed = replace(self.speed, pass_ms=before + WEIGHT * (now - before) if before else now)
