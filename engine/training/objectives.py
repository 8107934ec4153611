"""What a model can learn: the next token of code, or another model's own probabilities.

With a vocabulary of 128k a row's logits are hundreds of megabytes: what runs the output layer over which
positions is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engine.training.lessons import Lessons
from engine.training.progress import Figures

HELD_OUT_ROWS = 16
"""Enough to see a curve by; measuring a model is the benchmarks' business."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """Cross-entropy on packed rows [rows, length + 1]."""

    rows: NDArray[Any]
    unseen: NDArray[Any]

    @property
    def length(self) -> int:
        return self.rows.shape[1] - 1

    def __len__(self) -> int:
        return len(self.rows)

    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> Tensor:
        return _next_token_loss(model, self.rows[list(rows)], device)

    def held_out(self, model: Any, device: torch.device) -> Figures:
        losses = [_next_token_loss(model, row[None], device).item() for row in self.unseen[:HELD_OUT_ROWS]]
        return {"held_out": round(float(np.mean(losses)), 4)}


def _next_token_loss(model: Any, rows: NDArray[Any], device: torch.device) -> Tensor:
    tokens = torch.from_numpy(rows.astype(np.int64)).to(device)
    logits = model(input_ids=tokens[:, :-1]).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


@dataclass(frozen=True, slots=True)
class Distillation:
    """Kullback-Leibler divergence from a target's probabilities to the model's (Hinton et al. 2015).

    Of each distribution the lessons keep the most probable tokens; all the others count as one more.
    Knowing what the target thinks where *its own* text leads is what acceptance depends on (DistillSpec,
    Zhou et al. 2024).
    """

    lessons: Lessons
    unseen: Lessons

    @property
    def length(self) -> int:
        return self.lessons.tokens.shape[1]

    def __len__(self) -> int:
        return len(self.lessons.tokens)

    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> Tensor:
        return self._divergence(model, self.lessons, rows, device)[0]

    def held_out(self, model: Any, device: torch.device) -> Figures:
        rows = range(min(HELD_OUT_ROWS, len(self.unseen.tokens)))
        found = [self._divergence(model, self.unseen, [row], device) for row in rows]
        return {
            "held_out": round(float(np.mean([loss.item() for loss, _ in found])), 4),
            "same_best_token": round(float(np.mean([same.item() for _, same in found])), 4),
        }

    @staticmethod
    def _divergence(
        model: Any, lessons: Lessons, rows: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Mean divergence at the taught positions, and the share at which both have the same best token."""
        picked = list(rows)
        tokens = torch.from_numpy(lessons.tokens[picked].astype(np.int64)).to(device)
        taught = torch.from_numpy(lessons.taught[picked]).to(device)
        best = torch.from_numpy(lessons.best[picked].astype(np.int64)).to(device)[taught]
        theirs = torch.from_numpy(lessons.logprobs[picked]).to(device)[taught].float()
        columns = taught.any(0).nonzero()[:, 0]
        logits = model(input_ids=tokens, logits_to_keep=columns).logits[taught[:, columns]].float()
        ours = functional.log_softmax(logits, -1).gather(-1, best)
        rest, our_rest = _log_rest(theirs), _log_rest(ours)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1) + rest.exp() * (rest - our_rest)
        return divergence.mean(), (logits.argmax(-1) == best[:, 0]).float().mean()


def _log_rest(logprobs: Tensor) -> Tensor:
    """Log-probability of everything that [..., k] `logprobs` leave out."""
    return torch.log1p(-logprobs.exp().sum(-1).clamp(max=1 - 1e-6))
