"""Whether speculation changes no text, and what it gains: greedy continuations of a known snippet.

Every prompt is continued plainly, as the engine is configured, and, where trees grow as they pay, with trees
that are drafted at every step: a planner that finds drafting not worth its while would leave little to try.
Texts may part where two tokens are as likely as each other to within rounding, since passes of different
shapes round differently; the lead of the one over the other is told, and is a failure beyond `ROUNDING`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from statistics import median

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.costs import CostTable
from engine.decode import Decoder
from engine.draft.base import TreeLimits
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.loaded import LoadedEngine
from engine.model import Block, Transformer
from engine.prompt import BuiltPrompt
from engine.protocol import Segment, StopSpec
from engine.sampling import SamplingParams
from engine.selftest.snippet import SNIPPET
from engine.selftest.verdict import Check, PassTime
from engine.slot import Slot
from engine.speculation import dynamic_policy

ROUNDING = {torch.float32: 1e-3, torch.float16: 0.125, torch.bfloat16: 0.5}
"""Leads in logits that rounding explains: some units in the last place of logits around 20."""
MOST_PROMPTS, LEAST_PROMPTS = 8, 2
MOST_TOKENS, LEAST_TOKENS = 32, 8
BUDGET_S = 20.0
"""What plain decoding of all prompts may take, about; a slow target continues fewer prompts, and less far."""
DRAFTED_SIZE = 15
"""Guesses in a tree that is drafted whether or not it pays."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is decoded."""

    prompts: int
    max_tokens: int

    @staticmethod
    def affordable(pass_ms: float) -> Effort:
        """What `BUDGET_S` has time for where a pass takes `pass_ms`."""
        passes = int(1000 * BUDGET_S / pass_ms)
        max_tokens = min(max(passes // LEAST_PROMPTS, LEAST_TOKENS), MOST_TOKENS)
        return Effort(min(max(passes // max_tokens, LEAST_PROMPTS), MOST_PROMPTS), max_tokens)


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt, continued."""

    tokens: tuple[int, ...]
    later_tokens: int
    """Those that passes after the first one gave, which reads the prompt."""
    later_s: float
    drafted: int
    accepted: int
    passes: tuple[tuple[int, float], ...]
    """Rows and milliseconds of the target's passes after the first one."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a text left what plain decoding wrote."""

    at: int
    """Tokens of the continuation that the two have in common."""
    lead: float
    """By how much, in logits, plain decoding's next token leads the second best."""


def prompts(engine: LoadedEngine, effort: Effort) -> list[BuiltPrompt]:
    """Prompts at cursors spread over the snippet, as an editor's requests for them would be rendered."""
    found: list[BuiltPrompt] = []
    for number in range(1, effort.prompts + 1):
        cursor = number * len(SNIPPET) // (effort.prompts + 1)
        segments = (Segment("prefix", SNIPPET[:cursor]), Segment("suffix", SNIPPET[cursor:][:40]))
        found.append(engine.prompts.code(segments, "accounts.py", "python", effort.max_tokens))
    return found


def always_drafting(engine: LoadedEngine, config: EngineConfig) -> Decoder:
    """The engine's target with trees that are as large as they may be, whatever that costs."""
    target = engine.decoder.target
    limits = replace(TreeLimits.of(config), size=min(DRAFTED_SIZE, config.tree_size - 1))
    drafts = [replace(draft, costs=CostTable.flat(0.1)) for draft in engine.drafts]
    length = engine.decoder.max_length
    policy = dynamic_policy(limits, CostTable.flat(), drafts, length, vocab_size=target.config.vocab_size)
    return Decoder(target, policy, length)


class Decoding:
    """Continues prompts with `engine`'s models, greedily, and times the target's passes."""

    def __init__(self, engine: LoadedEngine, max_tokens: int) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self._passes: list[tuple[int, float]] = []
        _time_passes(engine.decoder.target, self._passes)

    def runs(self, decoder: Decoder, prompts: Sequence[BuiltPrompt], *, speculative: bool) -> Iterator[Run]:
        """Continue each of `prompts`, all in one slot, as an editor's requests are."""
        slot = decoder.new_slot()
        for prompt in prompts:
            yield self._run(decoder, slot, prompt, speculative=speculative)

    def _run(self, decoder: Decoder, slot: Slot, prompt: BuiltPrompt, *, speculative: bool) -> Run:
        """Continue `prompt` until an end token, or as far as is allowed."""
        stream = self._engine.text_stream(prompt.tokens, StopSpec(), prompt.owed)
        generated = decoder.generate(
            prompt.tokens,
            slot,
            SamplingParams(),
            stream,
            max_tokens=self._max_tokens,
            speculative=speculative,
            before_layer=_nothing,
            constraint=stream,
        )
        steps = [next(generated)]
        self._passes.clear()
        began = time.perf_counter()
        steps += generated
        later_s = time.perf_counter() - began
        counts = steps[-1].counts
        tokens = tuple(token for step in steps for token in step.tokens)
        later = len(tokens) - len(steps[0].tokens)
        return Run(tokens, later, later_s, counts.drafted, counts.accepted, tuple(self._passes))


def parting(plain: Run, other: Run) -> int | None:
    """How many tokens the two texts begin with in common; None if they are equal."""
    pairs = enumerate(zip_longest(plain.tokens, other.tokens))
    return next((index for index, (one, two) in pairs if one != two), None)


def part(target: Transformer, prompt: BuiltPrompt, plain: Run, other: Run) -> Parting | None:
    """Where `other` leaves `plain`, and how far from a tie that is; None if it does not."""
    at = parting(plain, other)
    if at is None:
        return None
    tokens = [*prompt.tokens, *plain.tokens[:at]]
    cache = target.new_cache(len(tokens))
    logits = target.forward(Block.chain(tokens), cache, [len(tokens) - 1], _nothing)[0]
    best = logits.topk(2).values
    return Parting(at, float(best[0] - best[1]))


def same_text(name: str, dtype: torch.dtype, partings: Sequence[Parting | None], drafted: int) -> Check:
    """Whether all texts, for which so many tokens were `drafted`, are plain decoding's, but for ties."""
    apart = [found for found in partings if found is not None]
    same = f"{len(partings) - len(apart)} of {len(partings)}"
    found = f"{same} texts are plain decoding's, token by token, {drafted} tokens having been drafted"
    if not apart:
        return Check(name, True, found)
    first, widest, limit = apart[0], max(each.lead for each in apart), ROUNDING[dtype]
    where = (
        f"{found}; the first other one parts after {first.at} tokens, where the best token leads by "
        f"{first.lead:.2g} in logits, and the widest lead is {widest:.2g}"
    )
    kind = str(dtype).removeprefix("torch.")
    if widest <= limit:
        return Check(name, True, f"{where}: ties, as rounding in {kind} explains up to {limit:g}")
    return Check(
        name, False, f"{where}: rounding in {kind} explains {limit:g}. Please report this as a defect"
    )


def rate(runs: Sequence[Run]) -> float | None:
    """Tokens a second once prompts are read; None if no text needed a second pass."""
    seconds = sum(run.later_s for run in runs)
    return sum(run.later_tokens for run in runs) / seconds if seconds and _passes(runs) else None


def tokens_per_pass(runs: Sequence[Run]) -> float | None:
    """Tokens that a pass after the first one gave; None as with `rate`."""
    passes = len(_passes(runs))
    return sum(run.later_tokens for run in runs) / passes if passes else None


def pass_time(runs: Sequence[Run], costs: CostTable) -> PassTime | None:
    """Median of the passes' times, and of what `costs` says of as many rows; None as with `rate`."""
    passes = _passes(runs)
    if not passes:
        return None
    planned = median(costs.ms(rows) for rows, _ in passes)
    return PassTime(median(took_ms for _, took_ms in passes), planned)


def _passes(runs: Sequence[Run]) -> list[tuple[int, float]]:
    return [timed for run in runs for timed in run.passes]


def _time_passes(model: Transformer, into: list[tuple[int, float]]) -> None:
    """From now on, note the rows and milliseconds of every pass of `model`."""
    forward: Callable[[Block, KVCache, Sequence[int], BeforeLayer], Tensor] = model.forward

    def timed(block: Block, cache: KVCache, rows: Sequence[int], before_layer: BeforeLayer) -> Tensor:
        began = time.perf_counter()
        logits = forward(block, cache, rows, before_layer)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        into.append((len(block) - block.first, 1000 * (time.perf_counter() - began)))
        return logits

    model.forward = timed


def _nothing(_layer: int) -> None: ...
