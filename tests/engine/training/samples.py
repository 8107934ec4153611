"""Source texts that differ from one another, for tests of what is made of them."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    first + last
    for first in ("order", "client", "price", "stock")
    for last in ("_sum", "_id", "_list", "_at")
]


def python(seed: int, functions: int = 8) -> str:
    """A module of about 130 characters a function, unlike that of any other seed."""
    rng = random.Random(seed)
    return "\n\n".join(_function(rng) for _ in range(functions))


def _function(rng: random.Random) -> str:
    a, b, c = rng.sample(WORDS, k=3)
    return (
        f"def {a}_{rng.choice(WORDS)}({b}, {c}={rng.randrange(9)}):\n"
        f"    if {b} {rng.choice('<>')} {rng.choice(WORDS)}.{c}:\n"
        f"        return {c} {rng.choice('+-*')} {rng.choice(WORDS)}({b})\n"
        f"    return {a} {rng.choice('+-*')} {b}\n"
    )


def write(folder: Path, files: dict[str, str]) -> Path:
    """`files` by their paths below `folder`, which is returned."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder
