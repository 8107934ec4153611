"""Dense weights rounded to INT8 and INT4 when a model is loaded: to the nearest code, without calibration.

A scale is a number that bfloat16 and float16 both hold, so that every kernel multiplies with the same: the
smallest of those that spans the weights, at most 2^-7 above what they ask for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.low_bit.int8 import Int8Weight
from engine.low_bit.weight import PER_WORD, Int4Weight, pack

_CHUNK = 1024
"""Output features that are rounded at a time: in float32 a weight takes four bytes, several times over."""
_LEAST = 2.0**-17
"""A scale that float16 still holds with all the bits of a bfloat16."""


def to_int8(weight: Tensor) -> Int8Weight:
    """`weight` [out, in], with one scale an output feature, and no zero points."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), dtype=torch.float16)
    for first in range(0, len(weight), _CHUNK):
        some = weight[first : first + _CHUNK].float()
        scale = _spanning(some.abs().amax(1) / 127)
        codes[first : first + _CHUNK] = (some / scale.unsqueeze(1)).round_().clamp_(-127, 127)
        scales[first : first + _CHUNK] = scale
    return Int8Weight(codes, scales)


def to_int4(weight: Tensor, group_size: int) -> Int4Weight:
    """`weight` [out, in], with a scale and a zero point for every `group_size` input features: a divisor."""
    outs, ins = weight.shape
    groups = ins // group_size
    qweight = torch.empty(ins, outs // PER_WORD, dtype=torch.int32)
    qzeros = torch.empty(groups, outs // PER_WORD, dtype=torch.int32)
    scales = torch.empty(groups, outs, dtype=torch.float16)
    for first in range(0, outs, _CHUNK):
        features, words = slice(first, first + _CHUNK), slice(first // PER_WORD, (first + _CHUNK) // PER_WORD)
        some = weight[features].float().view(-1, groups, group_size)
        # Zero is among the codes: where weights are all of one sign, the span begins there.
        least, most = some.amin(2).clamp_(max=0.0), some.amax(2).clamp_(min=0.0)
        scale = _spanning((most - least) / 15)
        zeros = (-least / scale).round_().clamp_(0, 15)
        codes = (some / scale.unsqueeze(2)).round_().add_(zeros.unsqueeze(2)).clamp_(0, 15)
        qweight[:, words] = pack(codes.flatten(1).t())
        qzeros[:, words] = pack(zeros.t())
        scales[:, features] = scale.t()
    return Int4Weight(qweight, qzeros, scales)


def _spanning(scale: Tensor) -> Tensor:
    """The scales to use where these would just do, in float32."""
    above = (scale * (1 + 2.0**-8)).to(torch.bfloat16)  # Which rounds by half of that at most.
    return above.float().clamp_(min=_LEAST)
