"""The optimiser of every training here: Muon on the layers' matrices, AdamW on the rest."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_optimizer import Muon
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from torch import Tensor, nn


class FullPrecisionMuon(Muon):
    """Muon (Jordan et al. 2024) whose Newton-Schulz iteration runs in the gradients' own precision.

    The library's runs in bfloat16, thirty times slower on a CPU without bfloat16 arithmetic.
    """

    @staticmethod
    def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
        stacked = torch.stack(updates)
        return list(
            zero_power_via_newton_schulz_5(
                stacked, num_steps=group["ns_steps"], weights=group["ns_coeffs"], dtype=stacked.dtype
            )
        )


def muon_with_adamw(model: nn.Module, matrix_lr: float, other_lr: float, weight_decay: float) -> Muon:
    """One optimiser for `model`, in two groups: the hidden matrices; the embedding and the norms."""
    hidden = {
        n for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    }
    groups: list[dict[str, Any]] = [
        {
            "params": [p for n, p in model.named_parameters() if n in hidden],
            "use_muon": True,
            "lr": matrix_lr,
            "weight_decay": weight_decay,
        },
        {
            "params": [p for n, p in model.named_parameters() if n not in hidden],
            "use_muon": False,
            "lr": other_lr,
            "betas": (0.9, 0.95),
            "weight_decay": 0.0,
        },
    ]
    on_cpu = next(model.parameters()).device.type == "cpu"
    return (FullPrecisionMuon if on_cpu else Muon)(groups)
