"""From a checkpoint's AWQ words to the tensors of a `Form`."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.awq import NIBBLES, AwqWeight, unpack
from engine.int4.form import Form

_CHUNK = 256
"""Output features that are repacked at a time: a multiple of every block that torch's CPU kernels know."""


@torch.inference_mode()
def stored(weight: AwqWeight, form: Form) -> dict[str, Tensor]:
    """`weight`, which `engine.int4.form.supports` allows, as the tensors that `parts` names, on the CPU.

    They may share memory with `weight`. What the CPU's kernel computes is (q - 8) * scale + zero, so its
    zero is (8 - z) * scale.
    """
    if form == "cuda":
        return {"codes": weight.qweight, "zeros": weight.qzeros, "scales": weight.scales.half()}
    scales = weight.scales.float()
    zeros = (8 - unpack(weight.qzeros).float()) * scales
    return {
        "codes": _cpu_codes(weight.qweight),
        "scales_and_zeros": torch.stack((scales, zeros), dim=-1).to(torch.bfloat16),
    }


def _cpu_codes(qweight: Tensor) -> Tensor:
    """Int32 [in, out / 8] -> uint8 [out, in / 2], a piece at a time: a code takes four bytes on the way."""
    shifts = torch.tensor([4 * nibble for nibble in NIBBLES], dtype=torch.int32).view(-1, 1)
    packed = torch.empty(8 * qweight.shape[1], len(qweight) // 2, dtype=torch.uint8)
    for first in range(0, qweight.shape[1], _CHUNK // 8):
        words = qweight[:, first : first + _CHUNK // 8].t().contiguous().unsqueeze(1)
        codes = (words >> shifts).bitwise_and_(0xF).flatten(0, 1)
        piece = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
        packed[8 * first :][: len(piece)] = piece
    return packed
