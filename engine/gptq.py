"""GPTQ INT4 weights (Frantar et al. 2022), as AutoGPTQ and GPTQModel write them, turned into AWQ's words.

A linear layer's weight is four tensors: `qweight` [in / 8, out] int32, of which a word holds eight
neighbouring input features, the first in its lowest nibble; `qzeros` [groups, out / 8] int32, of which a word
holds eight neighbouring output features in the same order; `scales` [groups, out]; and `g_idx` [in] int32,
each input feature's group. Format ``gptq`` has 0x11111111 less in every word of `qzeros` than ``gptq_v2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.awq import read_scales, read_words, require_divisible
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.low_bit.weight import PER_WORD, Int4Weight, pack
from engine.quantization import Quantization

_ONES = 0x11111111
_CHUNK = 512
"""Output features that are repacked at a time: a code takes several bytes on the way."""


def read_gptq(
    checkpoint: Checkpoint, how: Quantization, module: str, in_features: int, out_features: int
) -> Int4Weight:
    """The weight of the linear layer called `module`.

    Raises CheckpointError, naming file and tensor, if a tensor is missing, of another shape or dtype, holds a
    scale that is not finite, in float16 either, or groups input features otherwise than the checkpoint says.
    """
    group_size = how.group_of(in_features)
    require_divisible(checkpoint, module, in_features, out_features, group_size)
    if in_features % PER_WORD:
        raise CheckpointError(f"{checkpoint.folder}: {module} has {in_features} inputs, no multiple of 8")
    groups = in_features // group_size
    words = read_words(checkpoint, f"{module}.qweight", (in_features // PER_WORD, out_features))
    zeros = read_words(checkpoint, f"{module}.qzeros", (groups, out_features // PER_WORD))
    if how.method == "gptq":
        zeros = zeros + _ONES  # Whole words: a zero point of 0 has borrowed from its neighbour.
    scales = read_scales(checkpoint, f"{module}.scales", (groups, out_features))
    order = _order(checkpoint, f"{module}.g_idx", in_features, group_size, reordered=how.reordered)
    return Int4Weight(_by_outputs(words, order), pack(_nibbles(zeros).flatten(1)), scales, order)


def _nibbles(words: Tensor) -> Tensor:
    """Int32 [...] -> int32 [..., 8], the lowest nibble first."""
    return (words.unsqueeze(-1) >> torch.arange(0, 32, 4, dtype=torch.int32)) & 0xF


def _by_outputs(words: Tensor, order: Tensor | None) -> Tensor:
    """Int32 [in / 8, out], packed along the inputs -> [in, out / 8], packed as `pack` does, in `order`."""
    packed = torch.empty(PER_WORD * len(words), words.shape[1] // PER_WORD, dtype=torch.int32)
    for first in range(0, words.shape[1], _CHUNK):
        codes = _nibbles(words[:, first : first + _CHUNK]).transpose(1, 2).flatten(0, 1)
        chosen = codes if order is None else codes[order.long()]
        packed[:, first // PER_WORD : (first + _CHUNK) // PER_WORD] = pack(chosen)
    return packed


def _order(
    checkpoint: Checkpoint, name: str, in_features: int, group_size: int, *, reordered: bool
) -> Tensor | None:
    """The input features group by group, [in] int32, where the checkpoint's are `reordered`.

    Others are in order already: their `g_idx`, which old files lack, has nothing to say. Raises
    CheckpointError if it does, or if groups differ in size.
    """
    if not reordered and not checkpoint.has(name):
        return None
    groups = read_words(checkpoint, name, (in_features,)).long()
    expected = torch.arange(in_features) // group_size
    order = groups.argsort(stable=True)
    if not torch.equal(groups[order] if reordered else groups, expected):
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} does not have {group_size} input features in every group"
            + ("" if reordered else ", in order, as desc_act = false in config.json says")
        )
    return order.to(torch.int32) if reordered else None
