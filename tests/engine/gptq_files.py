"""Tiny GPTQ checkpoints, written with numpy from the published format alone, and their dequantised twins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.engine.tiny import write_model


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is quantised."""

    group: int = 32
    sym: bool = False
    reordered: bool = False
    """Whether each group's input features are anywhere."""
    layout: str = "gptq"
    kept: tuple[str, ...] = ()


def words_by_column(codes: NDArray[np.uint32]) -> NDArray[np.int32]:
    """[rows, columns] -> [rows, columns / 8], the first of eight columns in the lowest four bits."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for place in range(8):
        words |= codes[:, place::8] << np.uint32(4 * place)
    return words.view(np.int32)


def quantised(weight: Tensor, scheme: Scheme, order_seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors for `weight` [out, in], rounded to the nearest, and what they stand for, in float16."""
    dense = weight.numpy().astype(np.float32).T  # [in, out]
    ins = dense.shape[0]
    group = ins if scheme.group == -1 else scheme.group
    g_idx = np.arange(ins) // group
    if scheme.reordered:
        g_idx = np.random.default_rng(order_seed).permutation(g_idx)
    codes, stands_for = np.zeros(dense.shape, np.uint32), np.zeros(dense.shape, np.float16)
    zeros, scales = [], []
    for index in range(ins // group):
        rows = g_idx == index
        low, high = dense[rows].min(0), dense[rows].max(0)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        if scheme.sym:
            high = np.maximum(np.abs(low), high)
            low = -high
        scale = ((high - low) / 15).astype(np.float16)
        zero = np.full(low.shape, 8.0) if scheme.sym else np.clip(np.round(-low / scale), 0, 15)
        codes[rows] = np.clip(np.round(dense[rows] / scale + zero), 0, 15)
        stands_for[rows] = (codes[rows] - zero).astype(np.float16) * scale
        zeros.append(zero.astype(np.uint32))
        scales.append(scale)
    packed_zeros = words_by_column(np.stack(zeros))
    if scheme.layout == "gptq":
        packed_zeros = packed_zeros - np.int32(0x11111111)
    tensors = {
        "qweight": words_by_column(np.ascontiguousarray(codes.T)).T,
        "qzeros": packed_zeros,
        "scales": np.stack(scales),
        "g_idx": g_idx.astype(np.int32),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in tensors.items()}, (
        torch.from_numpy(stands_for.T.copy())
    )


def write_gptq(
    folder: Path,
    twin: Path,
    scheme: Scheme,
    family: str = "llama",
    orders: Sequence[int] = (),
    **changes: Any,
) -> None:
    """A quantised model in `folder`, and in `twin` the dense one that it stands for.

    Layers of one input have their features in one order, unless there are `orders` to take turns.
    """
    widths: dict[str, Any] = {"intermediate_size": 128}
    write_model(twin, family, **(widths | changes))
    plain = load_file(twin / "model.safetensors")
    written: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(sorted(plain.items())):
        module = name.removesuffix(".weight")
        if not name.endswith("_proj.weight") or any(part in name for part in scheme.kept):
            written[name] = tensor
            continue
        seed = orders[number % len(orders)] if orders else tensor.shape[1]
        parts, plain[name] = quantised(tensor, scheme, seed)
        written |= {f"{module}.{part}": each for part, each in parts.items()}
    folder.mkdir(exist_ok=True)
    save_file(plain, twin / "model.safetensors")
    save_file(written, folder / "model.safetensors")
    config = json.loads((twin / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": scheme.group,
        "sym": scheme.sym,
        "desc_act": scheme.reordered,
        "checkpoint_format": scheme.layout,
        "modules_to_not_convert": list(scheme.kept) or None,
    }
    (folder / "config.json").write_text(json.dumps(config))
