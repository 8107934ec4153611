"""Rotary position embeddings (Su et al. 2021), in the half-split layout of Hugging Face's checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.model_config import LinearRope, Llama3Rope, ModelConfig, YarnRope


class Rope:
    """A table of rotations by position, as long as the longest cache needs.

    Computed in float32 and kept in the model's dtype, as transformers does.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._frequencies = _frequencies(config)
        scaling = config.rope_scaling
        self._amplitude = scaling.amplitude if isinstance(scaling, YarnRope) else 1.0
        self._dtype = dtype
        self._device = device
        self._half = config.head_dim // 2
        self._table = torch.empty(0)

    def reserve(self, positions: int) -> None:
        """Make the table cover positions below `positions`."""
        if positions <= len(self._table):
            return
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), self._frequencies)
        cos, sin = angles.cos() * self._amplitude, angles.sin() * self._amplitude
        # The sign of the half that is swapped in is folded into the sine: see `rotate`.
        table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1)
        self._table = table.to(device=self._device, dtype=self._dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [rows, 1, head_dim] of `positions` [rows], for `rotate`."""
        table = self._table[positions]
        return table[:, :1], table[:, 1:]

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn each pair (i, i + head_dim / 2) of x [rows, heads, head_dim] by its position's angle."""
        return torch.addcmul(x * cos, x.roll(self._half, -1), sin)


def _frequencies(config: ModelConfig) -> Tensor:
    """Radians a position, one a pair of features: [head_dim / 2], float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    match config.rope_scaling:
        case None:
            return frequencies
        case LinearRope(factor):
            return frequencies / factor
        case Llama3Rope() as scaling:
            return _llama3(frequencies, scaling)
        case YarnRope() as scaling:
            return _yarn(frequencies, scaling, config)


def _llama3(frequencies: Tensor, scaling: Llama3Rope) -> Tensor:
    """Llama 3.1's stretch: long wavelengths by `factor`, short ones not, those between by a blend."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(frequencies / scaling.factor, frequencies, blend.clamp(0.0, 1.0))


def _yarn(frequencies: Tensor, scaling: YarnRope, config: ModelConfig) -> Tensor:
    """YaRN's stretch: as Llama 3.1's, but with a blend that is linear in the feature's index."""

    def index(turns: float) -> float:
        """The feature, a fraction, that turns so often over the original context."""
        wavelength = scaling.original_max_position / turns
        return config.head_dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(config.rope_theta))

    first, last = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    # The last index is bounded by twice what there is, as in YaRN's own code: checkpoints rely on it.
    first, last = max(first, 0), min(last, config.head_dim - 1)
    blend = (torch.arange(len(frequencies)) - first) / ((last - first) or 0.001)
    return torch.lerp(frequencies, frequencies / scaling.factor, blend.clamp(0.0, 1.0))
