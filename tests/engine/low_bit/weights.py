"""Random INT4 weights as AutoAWQ writes them."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.low_bit.weight import Int4Weight


def pack(values: Tensor) -> Tensor:
    """Nibbles [rows, columns] -> int32 [rows, columns / 8], by AutoAWQ's order: even features first."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int64)
    for nibble, feature in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        words |= values[:, feature::8].long() << (4 * nibble)
    return words.to(torch.int32)


def random_weight(in_features: int, out_features: int, seed: int = 0, group: int = 32) -> Int4Weight:
    """A weight of `in_features` by `out_features`, with `group` input features a group."""
    rng = torch.Generator().manual_seed(seed)
    groups = in_features // group
    return Int4Weight(
        pack(torch.randint(0, 16, (in_features, out_features), generator=rng)),
        pack(torch.randint(0, 16, (groups, out_features), generator=rng)),
        (0.005 + 0.01 * torch.rand(groups, out_features, generator=rng)).half(),
    )


def random_rows(rows: int, features: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(1)).to(dtype)
