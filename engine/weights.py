"""From a checkpoint's tensors to what a forward pass multiplies with: device, dtype and form of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.cpu_linear import PreciseHead, compact, fastest
from engine.errors import ConfigError
from engine.footprint import SMALL_BYTES, computing_dtype, is_small
from engine.layers import Layer, Norms
from engine.linear import DenseLinear, Linear, RmsNorm, fixed_rows
from engine.linear_weights import plain_weight
from engine.low_bit.form import DTypeName as StoredName
from engine.low_bit.form import Form
from engine.offload.layout import fused_linears

DTypeName = Literal["auto", "fp32", "fp16", "bf16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """The device called `name`, the first where that names several; "auto" is CUDA where there is one.

    Raises ConfigError if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name.partition(",")[0].strip())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use auto, cpu or cuda") from error
    return device


def further_devices(name: str) -> tuple[str, ...]:
    """The devices behind `choose_device`'s that `name` lists; of "auto", every other CUDA device.

    Raises ConfigError if one is not there, or is none that layers can be spread over.
    """
    if name == "auto":
        return tuple(f"cuda:{index}" for index in range(1, torch.cuda.device_count()))
    named = [part.strip() for part in name.split(",")]
    there = {f"cuda:{index}" for index in range(torch.cuda.device_count())}
    if len(named) > 1 and (len(set(named)) < len(named) or not there.issuperset(named)):
        has = f"This machine has {', '.join(sorted(there))}" if there else "This machine has no CUDA device"
        raise ConfigError(
            f"device = {name!r} must list CUDA devices, each once, as in 'cuda:0,cuda:1'. {has}."
        )
    return tuple(named[1:])


def form_for(device: torch.device) -> Form:
    """The form of quantised weights that is multiplied on `device`."""
    return "cpu" if device.type == "cpu" else "cuda"


def choose_dtype(name: DTypeName, checkpoint: Checkpoint, device: torch.device) -> StoredName:
    """The dtype to compute in, one of `DTYPES`; see `engine.footprint.computing_dtype`."""
    stored = {torch.float16: "F16", torch.bfloat16: "BF16"}.get(checkpoint.tensor("model.norm.weight").dtype)
    return computing_dtype(name, checkpoint.config, form_for(device), stored or "")


class WeightReader:
    """Reads the weights of one checkpoint for one device and dtype, quantised ones dequantised.

    Every method raises CheckpointError, naming file and tensor, for a tensor that cannot be used.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, row_multiple: int
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.row_multiple = row_multiple
        self._small = is_small(checkpoint.config)

    def on(self, device: torch.device) -> WeightReader:
        """The same for another device."""
        return WeightReader(self.checkpoint, device, self.dtype, self.row_multiple)

    def dense(self, name: str, *shape: int, device: torch.device | None = None) -> Tensor:
        """A tensor of floating-point numbers, in our dtype and on our device, or on `device`.

        A copy, as everything here: a model must not read from a file that may be rewritten under it.
        """
        stored = self.checkpoint.floats(name, shape)
        return stored.to(device=device or self.device, dtype=self.dtype, copy=True)

    def layer(self, index: int) -> Layer:
        """Decoder layer `index`."""
        prefix = f"model.layers.{index}"
        linears = {
            fused.name: self.linear(
                [f"{prefix}.{module}" for module in fused.modules],
                fused.in_features,
                fused.out_features,
                bias=fused.bias,
            )
            for fused in fused_linears(self.checkpoint.config)
        }
        return Layer.of(self.norms(index), linears)

    def norms(self, index: int) -> Norms:
        """Those of decoder layer `index`."""
        prefix = f"model.layers.{index}"
        attention = f"{prefix}.self_attn"
        return Norms(
            attention=self.norm(f"{prefix}.input_layernorm.weight"),
            qk=self._qk_norm(f"{attention}.q_norm", f"{attention}.k_norm")
            if self.checkpoint.config.qk_norm
            else None,
            mlp=self.norm(f"{prefix}.post_attention_layernorm.weight"),
        )

    def norm(self, name: str) -> RmsNorm:
        """The norm whose weight is tensor `name`, [hidden_size]."""
        config = self.checkpoint.config
        return RmsNorm(self.dense(name, config.hidden_size), config.rms_norm_eps)

    def _qk_norm(self, queries: str, keys: str) -> RmsNorm:
        """The norm of modules `queries` and `keys`, each [head_dim], for all heads of both side by side."""
        config = self.checkpoint.config
        counts = {queries: config.num_heads, keys: config.num_kv_heads}
        rows = [self.dense(f"{m}.weight", config.head_dim).expand(n, -1) for m, n in counts.items()]
        return RmsNorm(torch.cat(rows), config.rms_norm_eps)

    def linear(self, modules: Sequence[str], in_features: int, sizes: Sequence[int], *, bias: bool) -> Linear:
        """Linear layers of one input as one: [rows, in_features] -> [rows, sum(sizes)], side by side."""
        layers = list(zip(modules, sizes, strict=True))
        joined_bias = None
        if bias:
            stored = [self.checkpoint.floats(f"{module}.bias", (size,)) for module, size in layers]
            joined_bias = self._placed(torch.cat(stored))
        plain = torch.cat([plain_weight(self.checkpoint, m, in_features, size) for m, size in layers])
        return self._multiplier(self._placed(plain), joined_bias)

    def head(self, embedding: Tensor | None) -> Linear:
        """The output layer. `embedding` [vocab, hidden] on our device if its weight is that, else None.

        An embedding of more than a quarter of SMALL_BYTES serves without a copy, but in bfloat16 on a CPU.
        """
        config = self.checkpoint.config
        vocab, hidden = config.vocab_size, config.hidden_size
        if self.device.type == "cpu" and self.dtype == torch.bfloat16 and self.row_multiple == 1:
            name = "lm_head.weight" if embedding is None else "model.embed_tokens.weight"
            precise = PreciseHead.of(self.checkpoint.floats(name, (vocab, hidden)))
            if precise is not None:
                return precise
        if embedding is None:
            return self.linear(["lm_head"], hidden, [vocab], bias=False)
        if embedding.nbytes > SMALL_BYTES // 4:
            return fixed_rows(DenseLinear(embedding), self.row_multiple)
        return self._multiplier(embedding)

    def _multiplier(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The layer in the form that suits our device, dtype and memory."""
        if self.device.type != "cpu" or self.dtype != torch.float32:
            return fixed_rows(DenseLinear(weight, bias), self.row_multiple)
        if self.row_multiple > 1:
            return fixed_rows(DenseLinear.rearranged(weight, bias), self.row_multiple)
        return fastest(weight, bias) if self._small else compact(weight, bias)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)
