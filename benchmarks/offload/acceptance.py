"""How many tokens a pass yields: taken from recorded runs, for nothing of the kind is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

RECORDED = Path(__file__).parents[1] / "results" / "speculation.json"
TREE = "ours_64"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Tokens a pass of the target, and where they were counted."""

    ours: float
    umbrella: float
    source: str


@dataclass(frozen=True, slots=True)
class _EqualSize:
    tokens_per_pass: float


@dataclass(frozen=True, slots=True)
class _Recorded:
    tokens_per_pass_beam_16x16: float
    equal_size: dict[str, _EqualSize]


def recorded(path: Path = RECORDED) -> Acceptance:
    """Of a target for which rows and drafting cost nothing, as one that streams: what `path` says of it."""
    found = msgspec.json.decode(path.read_bytes(), type=_Recorded)
    return Acceptance(
        ours=found.equal_size[TREE].tokens_per_pass,
        umbrella=found.tokens_per_pass_beam_16x16,
        source=f"injected from {path.name}: bundled pair, held-out code, trees of 64, a beam of 16 x 16",
    )
