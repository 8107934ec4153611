"""Tree speculative decoding: draft, verify, accept, keep. Sees token ids only.

The target draws every token itself, from its own distribution at each node of the tree it verified
(sample-and-walk, SpecExec, Svirschevski et al. 2024). This is ancestral sampling whatever the tree
holds, so the text is what plain decoding would have given, greedy or not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from engine.draft.base import Drafter, DraftSession, TreeLimits
from engine.kv_cache import KVCache
from engine.model import BeforeLayer, Block, Transformer
from engine.prefill import prefill
from engine.protocol import StopReason, TokenCounts
from engine.sampling import Choice, SamplingParams, choose, only
from engine.tree import TokenTree


class StopRule(Protocol):
    """Decides, from the tokens emitted so far, where a generation ends."""

    def push(self, token: int) -> StopReason | None:
        """Take in the next emitted token; the reason to stop if it is the last."""
        ...


class Constraint(Protocol):
    """Decides, from the tokens emitted so far, which may come next."""

    def allowed(self) -> Sequence[int] | None:
        """Their ids; None if any may."""
        ...

    @property
    def rewritten(self) -> int:
        """Tokens so far that only wrote again what the prompt had left out. Nobody asked for those."""
        ...


class _Unconstrained:
    rewritten = 0

    def allowed(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Step:
    """What one target pass gave."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    counts: TokenCounts
    """Cumulative over the generation."""
    stop: StopReason | None = None
    """Set in the last step."""


@dataclass(slots=True)
class Slot:
    """The caches that one conversation with the models keeps between requests."""

    target: KVCache
    drafts: tuple[KVCache | None, ...]

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many leading `tokens` need no pass of the target."""
        return self.target.common_prefix(tokens)


@dataclass(frozen=True, slots=True)
class _Walk:
    """A verified path: the nodes descended into, and the tokens emitted on the way."""

    nodes: tuple[int, ...]
    emitted: tuple[Choice, ...]
    stop: StopReason | None


class Decoder:
    """A target, its drafters and the loop between them."""

    def __init__(
        self, target: Transformer, drafters: Sequence[Drafter], limits: TreeLimits, max_length: int
    ) -> None:
        self.target = target
        self._drafters = tuple(drafters)
        self._limits = limits
        self.max_length = max_length

    def new_slot(self) -> Slot:
        """Empty caches, with room for a full context and the tree being verified beyond it."""
        cache = self.target.new_cache(self.max_length + self._limits.size)
        return Slot(cache, tuple(drafter.new_cache() for drafter in self._drafters))

    def generate(
        self,
        prompt: Sequence[int],
        slot: Slot,
        params: SamplingParams,
        stop: StopRule,
        *,
        max_tokens: int,
        speculative: bool,
        before_layer: BeforeLayer,
        constraint: Constraint | None = None,
    ) -> Generator[Step]:
        """Yield a step a target pass until `stop`, `max_tokens` or the context's end.

        `constraint` is asked before each choice, after `stop` was told the one before: text is what plain
        decoding under it would give. `prompt` [at least 1 token] takes the longest prefix it shares with
        `slot`. What `before_layer` raises leaves the slot holding exactly the tokens it has kept; so does
        closing the iterator. Raises ValueError if the prompt is empty or leaves no room in the context.
        """
        if not 0 < len(prompt) < self.max_length:
            raise ValueError(f"a prompt of {len(prompt)} tokens does not fit a context of {self.max_length}")
        history = list(prompt)
        constraint = constraint or _Unconstrained()
        asked = len(prompt) + max_tokens - constraint.rewritten
        rewritten = constraint.rewritten
        # The last token is always run again: its logits are what the first choice is made from.
        slot.target.truncate(min(slot.target.common_prefix(prompt), len(prompt) - 1))
        sessions = self._open(slot) if speculative else []
        counts = TokenCounts(prompt=len(prompt), reused=slot.target.length)
        if max_tokens < 1:
            yield Step((), (), counts, StopReason.LENGTH)
            return
        while True:
            end = min(asked + constraint.rewritten, self.max_length)
            tree = self._draft(history, end, sessions, constraint.allowed(), before_layer)
            # What is too much of a prompt for one pass; the rest goes with the first tree.
            prefill_passes = prefill(self.target, slot.target, history, before_layer)
            logits, pending = self._verify(tree, history, slot.target, before_layer)
            walk = self._walk(tree, logits, history, params, stop, constraint, asked)
            kept_rows = [*range(pending), *(pending + node for node in walk.nodes)]
            kept_tokens = [*history[slot.target.length :], *(tree.tokens[n] for n in walk.nodes[1:])]
            slot.target.keep(kept_rows, kept_tokens)
            history += [choice.token for choice in walk.emitted]
            counts = replace(
                counts,
                generated=len(history) - len(prompt) - (constraint.rewritten - rewritten),
                drafted=counts.drafted + len(tree) - 1,
                accepted=counts.accepted + len(walk.nodes) - 1,
                target_passes=counts.target_passes + prefill_passes + 1,
            )
            emitted = walk.emitted
            yield Step(tuple(c.token for c in emitted), tuple(c.logprob for c in emitted), counts, walk.stop)
            if walk.stop is not None:
                return

    def _open(self, slot: Slot) -> list[DraftSession]:
        return [drafter.open(cache) for drafter, cache in zip(self._drafters, slot.drafts, strict=True)]

    def _draft(
        self,
        history: Sequence[int],
        end: int,
        sessions: Sequence[DraftSession],
        allowed: Sequence[int] | None,
        before_layer: BeforeLayer,
    ) -> TokenTree:
        """The tree to verify next. No deeper than what may still be emitted before the bonus token."""
        depth = min(self._limits.depth, end - len(history) - 1)
        limits = replace(self._limits, depth=depth, allowed=allowed)
        tree = TokenTree.root(history[-1])
        for session in sessions:
            session.grow(tree, history, limits, before_layer)
        return tree.best(limits.size)

    def _verify(
        self, tree: TokenTree, history: Sequence[int], cache: KVCache, before_layer: BeforeLayer
    ) -> tuple[Tensor, int]:
        """One pass over the uncached tokens and the tree: logits [nodes, vocab], rows before the root."""
        before_root = list(history[cache.length : -1])
        pending = len(before_root)
        parents = [parent + pending for parent in tree.parents]
        block = Block([*before_root, *tree.tokens], [*range(-1, pending - 1), *parents])
        rows = range(pending, pending + len(tree))
        return self.target.forward(block, cache, rows, before_layer), pending

    def _walk(
        self,
        tree: TokenTree,
        logits: Tensor,
        history: Sequence[int],
        params: SamplingParams,
        stop: StopRule,
        constraint: Constraint,
        asked: int,
    ) -> _Walk:
        """Draw at the root, descend while the drawn token is in the tree, end with the bonus token.

        The walk ends where the path is `asked` tokens long, not counting rewritten ones.
        """
        path, nodes = list(history), [0]
        emitted: list[Choice] = []
        while True:
            allowed = constraint.allowed()
            row = logits[nodes[-1]] if allowed is None else only(logits[nodes[-1]], allowed)
            choice = choose(row, params, path, position=len(path))
            emitted.append(choice)
            path.append(choice.token)
            reason = stop.push(choice.token)
            if reason is None and len(path) >= min(asked + constraint.rewritten, self.max_length):
                reason = StopReason.LENGTH
            child = tree.child(nodes[-1], choice.token)
            if child is not None:
                nodes.append(child)
            if reason is not None or child is None:
                return _Walk(tuple(nodes), tuple(emitted), reason)
