"""How quantised weights lie in memory for the kernels of a kind of device. Torch-free: the planner counts.

INT4 on ``cuda`` is AutoAWQ's words (see `engine.low_bit.weight`): `codes` [in, out / 8], `zeros`
[groups, out / 8], `scales` [groups, out]. On ``cpu`` it is what torch's own kernel reads: `codes`
[out, in / 2] in blocks that depend on the machine's instruction set, and `scales_and_zeros` [groups, out, 2].
With either may come `order` [in], the input feature of each row. INT8 is `codes` [out, in], `scales` [out].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["cpu", "cuda"]
DTypeName = Literal["uint8", "int8", "int32", "fp16", "bf16", "fp32"]
ITEM_BYTES: dict[DTypeName, int] = {"uint8": 1, "int8": 1, "int32": 4, "fp16": 2, "bf16": 2, "fp32": 4}

SCRATCH_BYTES = 128 * 2**20
"""Of a device's memory, at most, in which weights of one layer are dequantised, block by block."""

PER_WORD = 8
"""INT4 weights of neighbouring output features in an int32."""
_CPU_GROUPS = (32, 64, 128, 256)
_CPU_OUT_MULTIPLE = 16
_CPU_INT8_MULTIPLE = 32
"""Of input features: torch's kernel reads whole vectors of them, beyond the weight's end if it has to."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of one quantised weight."""

    in_features: int
    out_features: int
    group_size: int
    """Input features that share a scale. INT8 has one scale for all."""
    bits: int = 4
    reordered: bool = False
    """Whether the rows are in another order than the input features."""

    @property
    def groups(self) -> int:
        return self.in_features // self.group_size


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a stored weight."""

    name: str
    dtype: DTypeName
    shape: tuple[int, ...]


def supports(form: Form, shape: Shape) -> bool:
    """Whether a weight of this shape has that form; one that has not is stored dequantised."""
    if shape.bits == 8:
        return form == "cuda" or shape.in_features % _CPU_INT8_MULTIPLE == 0
    if shape.in_features % shape.group_size or shape.out_features % PER_WORD:
        return False
    return form == "cuda" or (shape.group_size in _CPU_GROUPS and shape.out_features % _CPU_OUT_MULTIPLE == 0)


def parts(form: Form, shape: Shape) -> tuple[Part, ...]:
    """The tensors of a weight that `supports` allows, in the order in which they are stored."""
    ins, outs, groups = shape.in_features, shape.out_features, shape.groups
    if shape.bits == 8:
        return Part("codes", "int8", (outs, ins)), Part(
            "scales", "bf16" if form == "cpu" else "fp16", (outs,)
        )
    order = (Part("order", "int32", (ins,)),) if shape.reordered else ()
    if form == "cpu":
        return (
            Part("codes", "uint8", (outs, ins // 2)),
            Part("scales_and_zeros", "bf16", (groups, outs, 2)),
            *order,
        )
    words = outs // PER_WORD
    return (
        Part("codes", "int32", (ins, words)),
        Part("zeros", "int32", (groups, words)),
        Part("scales", "fp16", (groups, outs)),
        *order,
    )
