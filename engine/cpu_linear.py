"""Dense layers in float32 on a CPU: which kernel multiplies how many rows. Knows nothing of checkpoints.

Speculation lives on passes of 2 to 32 rows that cost little more than one row does, and those are what a
BLAS is worst at. Microseconds for all products of a pass, two AVX2 cores, on a model of 4 layers of width
256 with 8,192 tokens (5M weights), and on one of 3 layers of width 1024 (33M):

| rows | `x @ W.t()` | rearranged | floats | halves | `x @ W.t()` | rearranged | floats | halves |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | 2161 | 1409 | 1721 | 990 | 7143 | 6535 | 5936 | 2904 |
| 2 | 3231 | 2026 | 1663 | 922 | 14763 | 12006 | 6429 | 3210 |
| 4 | 4311 | 3336 | 1809 | 957 | 19557 | 18396 | 6974 | 3253 |
| 8 | 5075 | 4282 | 2377 | 1433 | 16967 | 15809 | 8019 | 4735 |
| 16 | 5817 | 5300 | 2944 | 2033 | 20530 | 19115 | 11714 | 7246 |
| 64 | 10165 | 9235 | 5886 | 5471 | 50853 | 47347 | 34324 | 26293 |

There a row of `floats` comes to the same bits whatever rows come with it, and one of `halves` among three
rows or more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from engine.linear import DenseLinear, Linear

_TINY = 80_000
"""Weights a layer may have before a packed kernel saves more than its start-up, 15 us to 30 us, costs."""

_BLOCK = 16_384
"""Output features of a head that are packed at a time."""


class PackedLinear:
    """A layer whose weights lie in the blocks that a kernel for few rows reads."""

    def __init__(self, weight: Tensor, kernel: Callable[[Tensor], Tensor]) -> None:
        self.out_features, self.in_features = weight.shape
        self._kernel = kernel

    @staticmethod
    def halves(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
        """The kernel of FBGEMM, which reads float16 and computes in float32.

        None if float16 does not hold `weight` exactly, and where there is no such kernel.
        """
        if not torch.equal(weight.half().float(), weight):
            return None
        operators: Any = torch.ops.quantized
        try:
            packed = operators.linear_prepack_fp16(weight, bias)
            run = _bare(operators.linear_dynamic_fp16.default)
        except (AttributeError, RuntimeError):
            return None
        return PackedLinear(weight, lambda x: run(x, packed))

    @staticmethod
    def floats(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
        """The float32 kernel of oneDNN. None where there is no such kernel."""
        operators: Any = torch.ops.mkldnn
        try:
            packed = operators._reorder_linear_weight(weight, None)  # noqa: SLF001
            run = _bare(operators._linear_pointwise.default)  # noqa: SLF001
        except (AttributeError, RuntimeError):
            return None
        return PackedLinear(weight, lambda x: run(x, packed, bias, "none", [], ""))

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._kernel(x)


def _bare(operator: Any) -> Callable[..., Tensor]:
    """A torch operator without the Python around it, which takes 6 us to 30 us: as long as a small layer."""
    return getattr(operator, "_op", operator)


class ByRows:
    """One layer in two forms: one for a single row, one for several."""

    def __init__(self, single: Linear, several: Linear) -> None:
        self.in_features = single.in_features
        self.out_features = single.out_features
        self._single = single
        self._several = several

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._single(x) if len(x) == 1 else self._several(x)


class PreciseHead:
    """An output layer of float16 weights that computes in float32 whatever it is given: x [rows, in_features]
    -> float32 [rows, out_features].

    bfloat16 has steps of 1/16 where logits lie: ties would be common, and which of two tokens wins would hang
    on how many rows are multiplied at once. And where a CPU has no arithmetic for bfloat16, a BLAS takes five
    times as long for 64 rows.
    """

    def __init__(self, blocks: Sequence[PackedLinear]) -> None:
        self.in_features = blocks[0].in_features
        self.out_features = sum(block.out_features for block in blocks)
        self._blocks = tuple(blocks)

    @staticmethod
    def of(weight: Tensor) -> PreciseHead | None:
        """Of `weight` [out_features, in_features]; None where `PackedLinear.halves` is."""
        blocks: list[PackedLinear] = []
        for part in cast(
            "tuple[Tensor, ...]", weight.split(_BLOCK)
        ):  # In float32 it would take twice its memory at once.
            block = PackedLinear.halves(part.float(), None)
            if block is None:
                return None
            blocks.append(block)
        return PreciseHead(blocks)

    def __call__(self, x: Tensor, /) -> Tensor:
        wide = x.float()
        return torch.cat([block(wide) for block in self._blocks], dim=-1)


def compact(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The layer in the form that is fastest over the row counts of decoding, its weights held once."""
    packed = PackedLinear.halves(weight, bias) or PackedLinear.floats(weight, bias)
    return packed or DenseLinear.rearranged(weight, bias)


def fastest(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The layer in the form that is fastest for each row count, its weights held twice if need be."""
    plain = DenseLinear.rearranged(weight, bias)
    if weight.numel() < _TINY:
        return plain
    halves = PackedLinear.halves(weight, bias)
    return halves or ByRows(plain, PackedLinear.floats(weight, bias) or plain)
