"""Choosing a token from the target's logits. Knows nothing of trees, caches or drafts.

Randomness is keyed by (seed, position): which token stands at a position does not depend on how the
passes before it were shaped, on what was cached, or on what was drafted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

RULED_OUT = 1e9
"""Further below all others than any logit is."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one text are drawn. Temperature 0 is greedy; 0 or 1 turn the filters off, as in
    llama-server.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each once, with what is added to their logits before all else; -inf rules one out."""
    presence_penalty: float = 0.0
    """Taken from the logits of what the answer holds already, as OpenAI's API documents it."""
    frequency_penalty: float = 0.0
    """Taken from them once for each time that the answer holds it."""
    answer_at: int = 0
    """Where in the history the answer begins: these two penalties do not look at the prompt."""
    top_logprobs: int = 0
    """How many of the most probable tokens to report beside each that is drawn."""
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always chosen."""
        return self.temperature == 0.0

    @property
    def minds_answer(self) -> bool:
        """Whether it matters which tokens the answer holds already."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def minds_history(self) -> bool:
        """Whether it matters which tokens came before."""
        return self.repetition_penalty != 1.0 or self.minds_answer


@dataclass(frozen=True, slots=True)
class Choice:
    """A drawn token."""

    token: int
    logprob: float
    """Natural log-probability under the target itself, before penalties, temperature and filters; among the
    allowed tokens where not all are."""
    tops: tuple[tuple[int, float], ...] = ()
    """Ids and log-probabilities, in the same sense, of the most probable tokens, the most probable first: as
    many as were asked for, or as may come at all."""


def uniform(seed: int, position: int) -> float:
    """The one uniform draw in [0, 1) that belongs to (seed, position). Philox: Salmon et al. 2011."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def _penalise(logits: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (CTRL, Keskar et al. 2019)."""
    seen = torch.tensor(sorted(set(history)), device=logits.device)
    values = logits[seen]
    return logits.index_put((seen,), torch.where(values > 0, values / penalty, values * penalty))


def _answer_bias(answer: Sequence[int], params: SamplingParams) -> list[tuple[int, float]]:
    """What the penalties on the answer's tokens add to their logits."""
    presence, frequency = params.presence_penalty, params.frequency_penalty
    return [(token, -presence - frequency * count) for token, count in Counter(answer).items()]


def _biased(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    ids, values = zip(*bias, strict=True)
    # Finite, so that something is left to choose where all that may come is ruled out.
    added = torch.tensor(values, dtype=torch.double, device=logits.device).clamp_(min=-RULED_OUT)
    # In double precision, so that what is ruled out keeps its order where nothing else is left.
    return logits.double().index_add(0, torch.tensor(ids, device=logits.device), added)


def processed(logits: Tensor, params: SamplingParams, history: Sequence[int]) -> Tensor:
    """[vocab] logits with bias and penalties: what the most probable token is chosen from.

    `history` is the path's own: prompt and emitted tokens up to this position.
    """
    if params.logit_bias:
        logits = _biased(logits, params.logit_bias)
    if params.repetition_penalty != 1.0:
        logits = _penalise(logits, history, params.repetition_penalty)
    if params.minds_answer and len(history) > params.answer_at:
        logits = _biased(logits, _answer_bias(history[params.answer_at :], params))
    return logits


def only(logits: Tensor, allowed: Sequence[int]) -> Tensor:
    """[vocab] logits with those outside `allowed` ruled out."""
    kept = torch.tensor(allowed, device=logits.device)
    return torch.full_like(logits, -torch.inf).index_copy(0, kept, logits[kept])


def distribution(logits: Tensor, params: SamplingParams, history: Sequence[int]) -> Tensor:
    """What is drawn from: [vocab] logits -> [vocab] probabilities, float64, after every filter.

    `history` is the path's own: prompt and emitted tokens up to this position.
    """
    logits = processed(logits.double(), params, history)
    if params.greedy:
        greedy = torch.zeros_like(logits)
        greedy[logits.argmax()] = 1.0
        return greedy
    probabilities = torch.softmax((logits - logits.max()) / params.temperature, dim=-1)
    # A stable sort: among equal probabilities the lower token id comes first, on every device.
    ranked, order = torch.sort(probabilities, descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if params.top_k > 0:
        keep[params.top_k :] = False
    if params.top_p < 1.0:
        # The token that crosses the threshold is kept.
        keep &= ranked.cumsum(0) - ranked < params.top_p
    if params.min_p > 0.0:
        keep &= ranked >= params.min_p * ranked[0]
    keep[0] = True
    kept = torch.zeros_like(probabilities).scatter(0, order, torch.where(keep, ranked, 0.0))
    return kept / kept.sum()


def most_probable(logprobs: Tensor, most: int) -> tuple[tuple[int, float], ...]:
    """Of [vocab] log-probabilities the `most` highest with their ids, the highest first, -inf left out."""
    if not most:
        return ()
    best = logprobs.topk(min(most, len(logprobs)))
    values, tokens = cast("list[float]", best.values.tolist()), cast("list[int]", best.indices.tolist())
    pairs = zip(tokens, values, strict=True)
    return tuple((token, value) for token, value in pairs if value > -math.inf)


def choose(logits: Tensor, params: SamplingParams, history: Sequence[int], position: int) -> Choice:
    """Draw the token for `position` from [vocab] logits."""
    if params.greedy:
        token = int(processed(logits, params, history).argmax())
    else:
        cumulative = distribution(logits, params, history).cumsum(0)
        threshold = uniform(params.seed, position) * float(cumulative[-1])
        token = int((cumulative <= threshold).sum().clamp_(max=len(logits) - 1))
    logprobs = logits.log_softmax(-1)
    return Choice(token, float(logprobs[token]), most_probable(logprobs, params.top_logprobs))
