"""How the linear layers of a checkpoint are quantised, or are to be when they are loaded. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import CheckpointError

Method = Literal["awq", "gptq", "gptq_v2", "rounded"]
"""AWQ in GEMM packing (Lin et al. 2023); GPTQ (Frantar et al. 2022), whose second format stores zero points
as they are, where the first stores one less; and dense weights that are rounded when they are read."""
Rounded = Literal["int8", "int4"]
"""What dense weights may be rounded to."""

_GROUPS = (128, 64, 32)
"""Of weights that are rounded to INT4: the first that divides is taken."""
_LINEARS = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))


@dataclass(frozen=True, slots=True)
class Quantization:
    """Which linear layers are quantised, and how. The output layer never is."""

    method: Method
    bits: Literal[4, 8]
    group_size: int
    """Input features that share a scale and a zero point; -1: all of them; 0: as many as suit the layer."""
    reordered: bool = False
    """Whether a group's input features may be anywhere: GPTQ's ``desc_act``."""
    modules_to_not_convert: tuple[str, ...] = ()

    def group_of(self, in_features: int) -> int:
        """How many of the input features of a layer that has so many share a scale."""
        if self.group_size:
            return in_features if self.group_size == -1 else self.group_size
        return next((group for group in _GROUPS if in_features % group == 0), _GROUPS[-1])

    def converts(self, module: str) -> bool:
        """Whether the linear layer called `module` is quantised."""
        return module != "lm_head" and not any(name in module for name in self.modules_to_not_convert)


ROUNDED: dict[Rounded, Quantization] = {
    "int8": Quantization("rounded", 8, -1),
    "int4": Quantization("rounded", 4, 0),
}
"""What dense weights are rounded to: INT8 with a scale for each output feature, INT4 in groups."""


@dataclass(frozen=True, slots=True)
class QuantizationFile:
    """`quantization_config` in ``config.json``."""

    quant_method: str = ""
    bits: int = 4
    group_size: int = 128
    modules_to_not_convert: tuple[str, ...] | None = None
    # AWQ's.
    zero_point: bool = True
    version: str = "gemm"
    # GPTQ's.
    desc_act: bool = False
    checkpoint_format: str | None = None
    format: str | None = None
    """What GPTQModel has called `checkpoint_format` since its version 5."""
    pack_dtype: str = "int32"
    lm_head: bool = False
    dynamic: dict[str, object] | None = None
    modules_in_block_to_quantize: tuple[tuple[str, ...], ...] | None = None


def quantization_of(path: Path, file: QuantizationFile | None) -> Quantization | None:
    """What `file`, from ``config.json`` at `path`, says. Raises CheckpointError, naming the key."""
    if file is None:
        return None
    where = f"{path}: quantization_config"
    if file.quant_method not in ("awq", "gptq"):
        raise CheckpointError(f"{where}.quant_method is {file.quant_method!r}; supported are 'awq', 'gptq'")
    if file.bits != 4:
        raise CheckpointError(f"{where}.bits is {file.bits}; supported is 4")
    if file.group_size != -1 and file.group_size < 1:
        raise CheckpointError(f"{where}.group_size is {file.group_size}; it must be positive, or -1")
    if file.quant_method == "gptq":
        return _gptq(where, file)
    if file.version.lower() != "gemm":
        raise CheckpointError(f"{where}.version is {file.version!r}; supported is 'gemm'")
    if not file.zero_point:
        raise CheckpointError(f"{where}.zero_point is false; supported is true")
    return Quantization("awq", 4, file.group_size, modules_to_not_convert=file.modules_to_not_convert or ())


def _gptq(where: str, file: QuantizationFile) -> Quantization:
    layout = file.checkpoint_format or file.format or "gptq"
    if layout not in ("gptq", "gptq_v2"):
        raise CheckpointError(f"{where}.checkpoint_format is {layout!r}; supported are 'gptq', 'gptq_v2'")
    if file.pack_dtype != "int32":
        raise CheckpointError(f"{where}.pack_dtype is {file.pack_dtype!r}; supported is 'int32'")
    if file.lm_head:
        raise CheckpointError(f"{where}.lm_head is true; supported is an output layer that is not quantised")
    if file.dynamic:
        raise CheckpointError(f"{where}.dynamic sets modules apart, which is not supported")
    kept = file.modules_to_not_convert or ()
    if file.modules_in_block_to_quantize:
        named = [module for group in file.modules_in_block_to_quantize for module in group]
        kept += tuple(each for each in _LINEARS if not any(module.endswith(each) for module in named))
    return Quantization(layout, 4, file.group_size, file.desc_act and file.group_size != -1, kept)
