"""From a checkpoint's tensors to what a forward pass multiplies with: device, dtype and form of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from engine.awq import AwqWeight, packed_linear
from engine.checkpoint import Checkpoint
from engine.cpu_linear import compact, fastest
from engine.errors import ConfigError
from engine.linear import DenseLinear, FixedRows, Linear, RmsNorm
from engine.model_config import ModelConfig

DTypeName = Literal["auto", "fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

SMALL_BYTES = 256 * 2**20
"""Up to this size in float32 a model on a CPU has memory to spare. An INT4 one is dequantised when it is
loaded: so small, plain products are faster than INT4 ones, and exact. A float32 one may hold its weights
twice, for one row and for several."""


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one. Raises ConfigError if it is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use auto, cpu or cuda") from error
    return device


def choose_dtype(name: DTypeName, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The dtype to compute in.

    "auto" is float32 on a CPU, but for large INT4 models, whose kernel wants bfloat16; elsewhere the
    checkpoint's own half precision, float16 if it has none.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        large = checkpoint.config.quantization is not None and _linear_bytes(checkpoint.config) > SMALL_BYTES
        return torch.bfloat16 if large else torch.float32
    stored = checkpoint.tensor("model.norm.weight").dtype
    return stored if stored in (torch.float16, torch.bfloat16) else torch.float16


def _linear_bytes(config: ModelConfig) -> int:
    """Size in float32 of the layers' linear weights."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    features = heads * config.head_dim + 3 * config.intermediate_size
    return 4 * config.num_layers * config.hidden_size * features


class WeightReader:
    """Reads the weights of one checkpoint for one device and dtype.

    Every method raises CheckpointError, naming file and tensor, for a tensor that cannot be used.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, row_multiple: int
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._row_multiple = row_multiple
        self._small = _linear_bytes(checkpoint.config) <= SMALL_BYTES
        self._keep_packed = device.type != "cpu" or (not self._small and dtype == torch.bfloat16)

    def dense(self, name: str, *shape: int) -> Tensor:
        """A tensor of floating-point numbers, in our dtype and on our device.

        A copy, as everything here: a model must not read from a file that may be rewritten under it.
        """
        stored = self._checkpoint.floats(name, shape)
        return stored.to(device=self._device, dtype=self._dtype, copy=True)

    def norm(self, name: str) -> RmsNorm:
        """The norm whose weight is tensor `name`, [hidden_size]."""
        config = self._checkpoint.config
        return RmsNorm(self.dense(name, config.hidden_size), config.rms_norm_eps)

    def qk_norm(self, queries: str, keys: str) -> RmsNorm:
        """The norm of modules `queries` and `keys`, each [head_dim], for all heads of both side by side."""
        config = self._checkpoint.config
        counts = {queries: config.num_heads, keys: config.num_kv_heads}
        rows = [self.dense(f"{m}.weight", config.head_dim).expand(n, -1) for m, n in counts.items()]
        return RmsNorm(torch.cat(rows), config.rms_norm_eps)

    def linear(self, modules: Sequence[str], in_features: int, sizes: Sequence[int], *, bias: bool) -> Linear:
        """Linear layers of one input as one: [rows, in_features] -> [rows, sum(sizes)], side by side."""
        layers = list(zip(modules, sizes, strict=True))
        joined_bias = None
        if bias:
            stored = [self._checkpoint.floats(f"{module}.bias", (size,)) for module, size in layers]
            joined_bias = self._placed(torch.cat(stored))
        if self._keep_packed and all(self._is_quantised(module) for module in modules):
            weights = [self._quantised(module, in_features, size) for module, size in layers]
            packed = packed_linear(AwqWeight.side_by_side(weights), joined_bias, self._device)
            return self._fixed_rows(packed)
        plain = torch.cat([self._plain(module, in_features, size) for module, size in layers])
        return self._multiplier(self._placed(plain), joined_bias)

    def tied(self, embedding: Tensor) -> Linear:
        """The output layer whose weight is the embedding's, [vocab, hidden].

        In a form of its own if the embedding takes at most a quarter of SMALL_BYTES, else without a copy.
        """
        if embedding.nbytes > SMALL_BYTES // 4:
            return self._fixed_rows(DenseLinear(embedding))
        return self._multiplier(embedding)

    def _multiplier(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The layer in the form that suits our device, dtype and memory."""
        if self._device.type != "cpu" or self._dtype != torch.float32:
            return self._fixed_rows(DenseLinear(weight, bias))
        if self._row_multiple > 1:
            return self._fixed_rows(DenseLinear.rearranged(weight, bias))
        return fastest(weight, bias) if self._small else compact(weight, bias)

    def _fixed_rows(self, linear: Linear) -> Linear:
        """`linear`, or on the reference path one that takes the same number of rows at every call."""
        return FixedRows(linear, self._row_multiple) if self._row_multiple > 1 else linear

    def _is_quantised(self, module: str) -> bool:
        config = self._checkpoint.config.quantization
        return config is not None and config.converts(module)

    def _quantised(self, module: str, in_features: int, size: int) -> AwqWeight:
        config = self._checkpoint.config.quantization
        assert config is not None
        return AwqWeight.read(self._checkpoint, config, module, in_features, size)

    def _plain(self, module: str, in_features: int, size: int) -> Tensor:
        """A layer's weight [size, in_features], dequantised if it has to be."""
        if self._is_quantised(module):
            weight = self._quantised(module, in_features, size)
            # Rounded to the dtype of its scales, as where it is unpacked for every product; see `cpu_linear`.
            return weight.dequantised(weight.scales.dtype)
        return self._checkpoint.floats(f"{module}.weight", (size, in_features))

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._device, dtype=self._dtype)
