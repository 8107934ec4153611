"""Whether a model's probabilities make sense: on code that any model of code knows the like of.

The criteria hold for the smallest model that has learnt code. They fail for weights that are random, mixed up
or of another vocabulary: with those, text costs about as much as its shuffled tokens, or as guessing evenly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.model import Block, Transformer
from engine.selftest.snippet import CERTAINTIES, SNIPPET
from engine.selftest.verdict import Check
from engine.tokenizer import Tokenizer

MOST_OF_SHUFFLED = MOST_OF_EVEN = 0.6
"""What the snippet may cost at most, of the same tokens shuffled, and of a guess among all tokens alike."""
LIKELIEST = 5
"""Tokens among which the expected one must be."""
MISSES = 1
"""How many of `CERTAINTIES` may be missed."""


def check_probabilities(
    role: str, model: Transformer, tokenizer: Tokenizer, begin: int | None
) -> tuple[Check, Check]:
    """Whether `model`, the target or the draft, finds known code likely, and what must follow, too."""
    return _likely(role, model, tokenizer, begin), _certain(role, model, tokenizer, begin)


def mean_nll(logits: Tensor, tokens: Sequence[int]) -> float:
    """Mean negative log-probability in nats of `tokens` [n], each by its row of `logits` [n, vocab]."""
    rows = torch.arange(len(tokens), device=logits.device)
    return -float(logits.log_softmax(-1)[rows, torch.tensor(tokens, device=logits.device)].mean())


def _likely(role: str, model: Transformer, tokenizer: Tokenizer, begin: int | None) -> Check:
    name = f"known code is likely to the {role}"
    tokens = tokenizer.encode(SNIPPET)
    mixed = random.Random(0).sample(tokens, len(tokens))
    cost, shuffled = _cost(model, tokens, begin), _cost(model, mixed, begin)
    even = math.log(model.config.vocab_size)
    if not math.isfinite(cost + shuffled):
        return Check(name, False, "its probabilities are not numbers; fetch its files again, or set dtype")
    found = f"{cost:.2f} nats a token, {shuffled:.2f} once shuffled, {even:.2f} by guessing evenly"
    limit = min(MOST_OF_SHUFFLED * shuffled, MOST_OF_EVEN * even)
    if cost <= limit:
        return Check(name, True, f"{found}; at most {limit:.2f} is asked for")
    advice = "its weights are damaged, of another model than its tokenizer, or never learnt code"
    return Check(name, False, f"{found}, but at most {limit:.2f} is asked for: {advice}")


def _certain(role: str, model: Transformer, tokenizer: Tokenizer, begin: int | None) -> Check:
    name = f"what must follow is likely to the {role}"
    missed = [code for code, wanted in CERTAINTIES if not _follows(model, tokenizer, begin, code, wanted)]
    kept = len(CERTAINTIES) - len(missed)
    found = f"{kept} of {len(CERTAINTIES)} among its {LIKELIEST} likeliest tokens"
    least = len(CERTAINTIES) - MISSES
    if len(missed) <= MISSES:
        return Check(name, True, f"{found}; at least {least} are asked for")
    return Check(name, False, f"{found}, but at least {least} are asked for; is it a model of code?")


def _follows(model: Transformer, tokenizer: Tokenizer, begin: int | None, code: str, wanted: str) -> bool:
    tokens = _begun(tokenizer.encode(code), begin)
    logits = model.forward(Block.chain(tokens), model.new_cache(len(tokens)), [len(tokens) - 1], _nothing)[0]
    likeliest = [int(token) for token in logits[: tokenizer.vocab_size].topk(LIKELIEST).indices]
    return any(tokenizer.decode([token]).lstrip().startswith(wanted) for token in likeliest)


def _cost(model: Transformer, tokens: Sequence[int], begin: int | None) -> float:
    """`mean_nll` of `tokens` behind `begin`; without a `begin`, of those behind the first one."""
    whole = _begun(tokens, begin)[: model.config.max_position]
    rows = range(len(whole) - 1)
    logits = model.forward(Block.chain(whole), model.new_cache(len(whole)), rows, _nothing)
    return mean_nll(logits, whole[1:])


def _begun(tokens: Sequence[int], begin: int | None) -> list[int]:
    return [*tokens] if begin is None else [begin, *tokens]


def _nothing(_layer: int) -> None: ...
