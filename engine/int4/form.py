"""How an INT4 weight lies in memory for the kernels of one kind of device. Torch-free: sizes for the planner.

``cuda`` keeps AutoAWQ's words (see `engine.awq`): `codes` [in, out / 8], `zeros` [groups, out / 8], `scales`
[groups, out]. ``cpu`` is what torch's own kernel reads: `codes` [out, in / 2] in blocks that depend on the
machine's instruction set, and `scales_and_zeros` [groups, out, 2].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["cpu", "cuda"]
DTypeName = Literal["uint8", "int32", "fp16", "bf16", "fp32"]
ITEM_BYTES: dict[DTypeName, int] = {"uint8": 1, "int32": 4, "fp16": 2, "bf16": 2, "fp32": 4}

SCRATCH_BYTES = 128 * 2**20
"""Of a device's memory, at most, in which weights of one layer are dequantised, block by block."""

_PER_WORD = 8
_CPU_GROUPS = (32, 64, 128, 256)
_CPU_OUT_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a stored weight."""

    name: str
    dtype: DTypeName
    shape: tuple[int, ...]


def supports(form: Form, in_features: int, out_features: int, group_size: int) -> bool:
    """Whether a weight of this shape has that form; one that has not is stored dequantised."""
    if in_features % group_size or out_features % _PER_WORD:
        return False
    return form == "cuda" or (group_size in _CPU_GROUPS and out_features % _CPU_OUT_MULTIPLE == 0)


def parts(form: Form, in_features: int, out_features: int, group_size: int) -> tuple[Part, ...]:
    """The tensors of a weight that `supports` allows, in the order in which they are stored."""
    groups = in_features // group_size
    if form == "cpu":
        return (
            Part("codes", "uint8", (out_features, in_features // 2)),
            Part("scales_and_zeros", "bf16", (groups, out_features, 2)),
        )
    words = out_features // _PER_WORD
    return (
        Part("codes", "int32", (in_features, words)),
        Part("zeros", "int32", (groups, words)),
        Part("scales", "fp16", (groups, out_features)),
    )
