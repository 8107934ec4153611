"""Texts that are nearly the same: MinHash signatures behind a locality-sensitive index.

Broder 1997, "On the resemblance and containment of documents", over shingles of tokens; bands as in
Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4. Deterministic.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.8
"""Share of shingles in common, as estimated, from which two texts count as one."""
SHINGLE = 5
"""Tokens."""
HASHES = 128
BAND = 4
"""Hashes in a row that agree before two texts are compared; at ALIKE they almost always do somewhere."""
TOKEN = re.compile(r"\w+|[^\w\s]")


def _odd_numbers(count: int, seed: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(1 << 63, size=count, dtype=np.uint64) | np.uint64(1)


_FACTORS = _odd_numbers(HASHES, seed=0)
_POWERS = _odd_numbers(SHINGLE, seed=1)


def signature(text: str) -> NDArray[np.uint64]:
    """The least value of each hash over the text's shingles, [HASHES]. Layout does not count."""
    tokens = [zlib.crc32(token.encode()) for token in TOKEN.findall(text)]
    tokens += [0] * (SHINGLE - len(tokens))
    hashed = np.array(tokens, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(hashed, SHINGLE)
    shingles = np.unique((windows * _POWERS).sum(axis=1, dtype=np.uint64))
    # A product's low bits know nothing of its factors' high ones: fold those in before the next product.
    shingles ^= shingles >> np.uint64(29)
    return (shingles[:, None] * _FACTORS).min(axis=0)


class NearDuplicates:
    """Remembers texts and knows those that resemble one of them."""

    def __init__(self) -> None:
        self._signatures: list[NDArray[np.uint64]] = []
        self._bands: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, text: str) -> bool:
        """Remember `text`, unless it resembles what is known: then False."""
        mine = signature(text)
        if self._resembles(mine):
            return False
        for key in self._keys(mine):
            self._bands[key].append(len(self._signatures))
        self._signatures.append(mine)
        return True

    def knows(self, text: str) -> bool:
        """Whether `text` resembles a remembered one."""
        return self._resembles(signature(text))

    @staticmethod
    def _keys(mine: NDArray[np.uint64]) -> list[tuple[int, bytes]]:
        return [(band, mine[band : band + BAND].tobytes()) for band in range(0, HASHES, BAND)]

    def _resembles(self, mine: NDArray[np.uint64]) -> bool:
        candidates = {other for key in self._keys(mine) for other in self._bands.get(key, ())}
        return any((self._signatures[other] == mine).mean() >= ALIKE for other in candidates)
