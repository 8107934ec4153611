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

from engine.branches import Branch, Walk, siblings
from engine.draft.base import Opening, Outlook
from engine.kv_cache import KVCache
from engine.layers import BeforeLayer
from engine.model import Block, Transformer
from engine.policy import PlainPolicy, PolicySession, TreePolicy
from engine.policy.base import Position
from engine.prefill import prefill
from engine.protocol import StopReason, TokenCounts, Tops
from engine.sampling import Choice, SamplingParams, choose, only
from engine.slot import Slot
from engine.tree import TokenTree

PLAIN = PlainPolicy()


class StopRule(Protocol):
    """Decides, from the tokens emitted so far, where a generation ends."""

    def push(self, token: int) -> StopReason | None:
        """Take in the next emitted token; the reason to stop if it is the last."""
        ...


class Constraint(Protocol):
    """Decides, from the tokens emitted so far, which may come next."""

    def allowed(self) -> Sequence[int] | None:
        """Their ids, ascending; None if any may."""
        ...

    @property
    def rewritten(self) -> int:
        """Tokens so far that only wrote again what the prompt had left out. Nobody asked for those."""
        ...

    def outlook(self) -> Outlook:
        """What can be told of the text to come; right until the next token."""
        ...


class _Unconstrained:
    rewritten = 0

    def allowed(self) -> None:
        return None

    def outlook(self) -> Outlook:
        return Outlook()


@dataclass(frozen=True, slots=True)
class Step:
    """What one target pass gave."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    counts: TokenCounts
    """Cumulative over the generation."""
    stop: StopReason | None = None
    """Set in the last step."""
    branches: tuple[Branch, ...] = ()
    """Verified paths that leave the text here, if they were asked for, the most probable first."""
    failed: tuple[str, ...] = ()
    """Drafters that raised so far, and are not asked again."""
    tops: Tops = ()
    """See `Choice.tops`; () where none were asked for."""


@dataclass(slots=True)
class _Generation:
    """One text on its way."""

    target: Transformer
    cache: KVCache
    session: PolicySession
    history: list[int]
    """The prompt and all that was emitted."""
    params: SamplingParams
    stop: StopRule
    constraint: Constraint
    asked: int
    """Length of the history at which it is over, rewritten tokens not counted."""
    max_length: int
    branches: int
    before_layer: BeforeLayer
    counts: TokenCounts

    @property
    def end(self) -> int:
        """Length of the history at which it is over."""
        return min(self.asked + self.constraint.rewritten, self.max_length)

    def step(self) -> Step:
        """Draft, verify, accept, keep."""
        # What is too much of a prompt for one pass; the rest goes with the first tree.
        prefill_passes = prefill(self.target, self.cache, self.history, self.before_layer)
        position = Position(
            history=self.history,
            pending=len(self.history) - 1 - self.cache.length,
            left=self.end - len(self.history),
            outlook=self.constraint.outlook(),
        )
        tree = self.session.grow(position, self.before_layer)
        logits = self._verify(tree, position.pending)
        rewritten = self.constraint.rewritten
        walk = self._walk(tree, logits)
        branches: tuple[Branch, ...] = ()
        if self.branches:
            said = len(self.history) - self.counts.prompt
            branches = siblings(tree, logits, walk, position, self.params, said, self.branches)
        self._keep(tree, walk, position.pending)
        emitted = tuple(choice.token for choice in walk.emitted)
        self.history += emitted
        self.session.learn(emitted)
        self.counts = replace(
            self.counts,
            generated=self.counts.generated + len(emitted) - (self.constraint.rewritten - rewritten),
            drafted=self.counts.drafted + len(tree) - 1,
            accepted=self.counts.accepted + len(walk.nodes) - 1,
            target_passes=self.counts.target_passes + prefill_passes + 1,
        )
        logprobs = tuple(choice.logprob for choice in walk.emitted)
        tops = tuple(choice.tops for choice in walk.emitted) if self.params.top_logprobs else ()
        return Step(emitted, logprobs, self.counts, walk.stop, branches, tuple(self.session.failed), tops)

    def _verify(self, tree: TokenTree, pending: int) -> Tensor:
        """One pass over the `pending` uncached tokens and the tree: logits [nodes, vocab]."""
        before_root = self.history[self.cache.length : -1]
        parents = [parent + pending for parent in tree.parents]
        block = Block([*before_root, *tree.tokens], [*range(-1, pending - 1), *parents])
        rows = range(pending, pending + len(tree))

        def before_layer(layer: int) -> None:
            self.before_layer(layer)
            # While the layer is still on its way, the next tree can be drafted at no cost.
            if self.target.wait_ms(layer) > 0.0:
                self.session.grow_on(lambda: self.target.wait_ms(layer), self.before_layer)

        return self.target.forward(block, self.cache, rows, before_layer)

    def _walk(self, tree: TokenTree, logits: Tensor) -> Walk:
        """Draw at the root, descend while the drawn token is in the tree, end with the bonus token."""
        path, nodes = list(self.history), [0]
        emitted: list[Choice] = []
        while True:
            allowed = self.constraint.allowed()
            row = logits[nodes[-1]] if allowed is None else only(logits[nodes[-1]], allowed)
            choice = choose(row, self.params, path, position=len(path))
            emitted.append(choice)
            path.append(choice.token)
            reason = self.stop.push(choice.token)
            if reason is None and len(path) >= self.end:
                reason = StopReason.LENGTH
            child = tree.child(nodes[-1], choice.token)
            if child is not None:
                nodes.append(child)
            if reason is not None or child is None:
                return Walk(tuple(nodes), tuple(emitted), reason)

    def _keep(self, tree: TokenTree, walk: Walk, pending: int) -> None:
        """Make the keys and values of the pending tokens and of the nodes walked the cache's own."""
        rows = [*range(pending), *(pending + node for node in walk.nodes)]
        tokens = [*self.history[self.cache.length :], *(tree.tokens[node] for node in walk.nodes[1:])]
        self.cache.keep(rows, tokens)


class Decoder:
    """A target, a policy for the trees it verifies, and the loop between them."""

    def __init__(self, target: Transformer, policy: TreePolicy, max_length: int) -> None:
        self.target = target
        self.policy = policy
        self.max_length = max_length

    def new_slot(self) -> Slot:
        """Empty caches, with room for a full context and the tree being verified beyond it."""
        cache = self.target.new_cache(self.max_length + self.policy.most_nodes)
        return Slot(cache, self.policy.new_memories())

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
        workspace: str = "",
        branches: int = 0,
    ) -> Generator[Step]:
        """Yield a step a target pass until `stop`, `max_tokens` or the context's end.

        `constraint` is asked before each choice, after `stop` was told the one before: text is what plain
        decoding under it would give. `prompt` [at least 1 token] takes the longest prefix it shares with
        `slot`. `workspace` names text that may be drafted from; `branches` is how many a step may report.
        What `before_layer` raises leaves the slot holding exactly the tokens it has kept; so does closing
        the iterator. Raises ValueError if the prompt is empty or leaves no room in the context.
        """
        if not 0 < len(prompt) < self.max_length:
            raise ValueError(f"a prompt of {len(prompt)} tokens does not fit a context of {self.max_length}")
        history = list(prompt)
        constraint = constraint or _Unconstrained()
        opening = Opening(prompt, slot.text, workspace)
        slot.text = history
        # The last token is always run again: its logits are what the first choice is made from.
        slot.target.truncate(min(slot.target.common_prefix(prompt), len(prompt) - 1))
        policy, memories = (self.policy, slot.drafts) if speculative else (PLAIN, ())
        generation = _Generation(
            target=self.target,
            cache=slot.target,
            session=policy.open(memories, opening, greedy=params.greedy),
            history=history,
            params=params,
            stop=stop,
            constraint=constraint,
            asked=len(prompt) + max_tokens - constraint.rewritten,
            max_length=self.max_length,
            branches=branches,
            before_layer=before_layer,
            counts=TokenCounts(prompt=len(prompt), reused=slot.target.length),
        )
        if max_tokens < 1:
            yield Step((), (), generation.counts, StopReason.LENGTH)
            return
        while True:
            step = generation.step()
            yield step
            if step.stop is not None:
                return
