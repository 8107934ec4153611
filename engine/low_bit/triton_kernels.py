# Triton has no types to check, and is there only where torch is a CUDA build.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false
"""INT4 products on AutoAWQ's words, for CUDA, in Triton. Unverified on GPU.

Both kernels see a weight as tiles of `_COLUMNS` output features and as many input features as lie in one
group, so that a tile has one row of zero points and one of scales. They are told how many words a row of
codes has, not how many features: Triton makes wide loads where it knows that a row's length is divisible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.low_bit.form import SCRATCH_BYTES, Shape
from engine.low_bit.kernel import Parts

MOST_ROWS = 64
"""The sums of more would not fit the registers of a tile."""
_COLUMNS = 128
_DEPTHS = (64, 32, 16)
"""Input features of a tile. Tensor cores ask for 16 at least."""


@triton.jit
def _unpack(words):
    """Int32 [rows, words] -> int32 [rows, 8 * words], by `engine.low_bit.weight.NIBBLES`."""
    place = tl.arange(0, 8)
    shifts = 4 * ((place & 1) * 4 + (place >> 1))
    nibbles = (words[:, :, None] >> shifts[None, None, :]) & 0xF
    return tl.reshape(nibbles, (words.shape[0], 8 * words.shape[1]))


@triton.jit
def _weights(codes, zeros, scales, features_in, first_column, words, group, tile_columns: tl.constexpr):
    """The tile of weights in float32, [depth, tile_columns]; zeros beyond the last column."""
    word = first_column // 8 + tl.arange(0, tile_columns // 8)
    column = first_column + tl.arange(0, tile_columns)
    there = (word < words)[None, :]
    code = tl.load(codes + features_in[:, None] * words + word[None, :], mask=there, other=0)
    zero = tl.load(zeros + group * words + word[None, :], mask=there, other=0)
    scale = tl.load(scales + group * words * 8 + column, mask=column < words * 8, other=0.0)
    return (_unpack(code) - _unpack(zero)).to(tl.float32) * scale.to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["rows", "share"])
def _multiply(
    x,
    codes,
    zeros,
    scales,
    product,
    rows,
    share,
    in_features,
    words,
    group_size,
    tile_rows: tl.constexpr,
    depth: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """One tile of columns over a share of the input features: product [shares, rows, out_features]."""
    first_column = tl.program_id(0) * tile_columns
    part = tl.program_id(1)
    row = tl.arange(0, tile_rows)[:, None]
    column = first_column + tl.arange(0, tile_columns)[None, :]
    total = tl.zeros((tile_rows, tile_columns), dtype=tl.float32)
    for first in range(part * share, min((part + 1) * share, in_features), depth):
        feature = first + tl.arange(0, depth)
        some = tl.load(x + row * in_features + feature[None, :], mask=row < rows, other=0.0)
        weight = _weights(
            codes, zeros, scales, feature, first_column, words, first // group_size, tile_columns
        )
        total = tl.dot(some, weight.to(some.dtype), total)
    there = (row < rows) & (column < words * 8)
    tl.store(product + (part * rows + row) * words * 8 + column, total, mask=there)


@triton.jit(do_not_specialize=["first"])
def _dequantise(
    codes,
    zeros,
    scales,
    weight,
    first,
    columns,
    words,
    group_size,
    depth: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """Columns `first` to `first + columns` as weight [in_features, columns]."""
    feature = tl.program_id(1) * depth + tl.arange(0, depth)
    column = tl.program_id(0) * tile_columns
    group = tl.program_id(1) * depth // group_size
    tile = _weights(codes, zeros, scales, feature, first + column, words, group, tile_columns)
    column += tl.arange(0, tile_columns)
    place = feature[:, None] * columns + column[None, :]
    tl.store(weight + place, tile, mask=(column < columns)[None, :])


def _depth(shape: Shape) -> int:
    """Input features of a tile: all in one group. 0 if there is no such tile."""
    return next((depth for depth in _DEPTHS if shape.group_size % depth == 0), 0)


@dataclass(frozen=True, slots=True)
class FusedKernel:
    """Unpacks tiles in registers and multiplies them at once, accumulating in float32.

    One row has too few columns to keep a large device busy, so the input features may be shared out among
    `shares` programs a tile. Their sums are added up in a fixed order afterwards.
    """

    shares: int = 1

    @property
    def name(self) -> str:
        return f"fused/{self.shares}"

    def takes(self, shape: Shape, rows: int) -> bool:
        depth = _depth(shape)
        return depth > 0 and rows <= MOST_ROWS and shape.in_features >= self.shares * depth

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        rows, depth = len(x), _depth(shape)
        share = triton.cdiv(shape.in_features, self.shares * depth) * depth
        sums = x.new_empty(
            (self.shares, rows, shape.out_features), dtype=x.dtype if self.shares == 1 else torch.float32
        )
        with torch.cuda.device_of(x):
            _multiply[triton.cdiv(shape.out_features, _COLUMNS), self.shares](
                x.contiguous(),
                *(parts[name] for name in ("codes", "zeros", "scales")),
                sums,
                rows,
                share,
                shape.in_features,
                shape.out_features // 8,
                shape.group_size,
                tile_rows=max(16, triton.next_power_of_2(rows)),
                depth=depth,
                tile_columns=_COLUMNS,
            )
        return sums[0] if self.shares == 1 else sums.sum(0).to(x.dtype)


class ScratchKernel:
    """Dequantises a block of columns into memory that all layers share, and has a BLAS multiply with it."""

    name = "scratch"

    def __init__(self, device: torch.device, size_bytes: int = SCRATCH_BYTES) -> None:
        self._device = device
        self._size_bytes = size_bytes
        self._scratch: Tensor | None = None

    def takes(self, shape: Shape, rows: int) -> bool:  # noqa: ARG002 - any
        return _depth(shape) > 0 and self._size_bytes >= 4 * _COLUMNS * shape.in_features

    def __call__(self, x: Tensor, parts: Parts, shape: Shape) -> Tensor:
        product = x.new_empty(len(x), shape.out_features)
        columns = self._size_bytes // (x.itemsize * shape.in_features) // _COLUMNS * _COLUMNS
        for first in range(0, shape.out_features, columns):
            last = min(first + columns, shape.out_features)
            weight = self._weight(x.dtype, shape.in_features, last - first)
            with torch.cuda.device_of(x):
                _dequantise[triton.cdiv(last - first, _COLUMNS), shape.in_features // _depth(shape)](
                    *(parts[name] for name in ("codes", "zeros", "scales")),
                    weight,
                    first,
                    last - first,
                    shape.out_features // 8,
                    shape.group_size,
                    depth=_depth(shape),
                    tile_columns=_COLUMNS,
                )
            torch.mm(x, weight, out=product[:, first:last])
        return product

    def _weight(self, dtype: torch.dtype, rows: int, columns: int) -> Tensor:
        """The scratch as [rows, columns]. Its place never changes, for passes may be recorded."""
        if self._scratch is None:
            self._scratch = torch.empty(self._size_bytes, dtype=torch.uint8, device=self._device)
        return self._scratch[: rows * columns * dtype.itemsize].view(dtype).view(rows, columns)
