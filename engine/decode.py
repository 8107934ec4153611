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
from engine.model import BeforeLayer, Block, Transformer
from engine.policy import PlainPolicy, PolicySession, TreePolicy
from engine.policy.base import Position
from engine.prefill import prefill
from engine.protocol import StopReason, TokenCounts
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
        asked = len(prompt) + max_tokens - constraint.rewritten
        rewritten = constraint.rewritten
        opening = Opening(prompt, slot.text, workspace)
        slot.text = history
        # The last token is always run again: its logits are what the first choice is made from.
        slot.target.truncate(min(slot.target.common_prefix(prompt), len(prompt) - 1))
        session = self._open(slot, opening, params, speculative=speculative)
        counts = TokenCounts(prompt=len(prompt), reused=slot.target.length)
        if max_tokens < 1:
            yield Step((), (), counts, StopReason.LENGTH)
            return
        while True:
            end = min(asked + constraint.rewritten, self.max_length)
            # What is too much of a prompt for one pass; the rest goes with the first tree.
            prefill_passes = prefill(self.target, slot.target, history, before_layer)
            pending = len(history) - 1 - slot.target.length
            position = Position(history, pending, end - len(history), constraint.outlook())
            tree = session.grow(position, before_layer)
            logits = self._verify(tree, history, slot.target, before_layer)
            walk = self._walk(tree, logits, history, params, stop, constraint, asked)
            kept_rows = [*range(pending), *(pending + node for node in walk.nodes)]
            kept_tokens = [*history[slot.target.length :], *(tree.tokens[n] for n in walk.nodes[1:])]
            slot.target.keep(kept_rows, kept_tokens)
            found: tuple[Branch, ...] = ()
            if branches:
                emitted = len(history) - len(prompt)
                found = siblings(tree, logits, walk, history, params, emitted, branches)
            history += [choice.token for choice in walk.emitted]
            session.learn([choice.token for choice in walk.emitted])
            counts = replace(
                counts,
                generated=len(history) - len(prompt) - (constraint.rewritten - rewritten),
                drafted=counts.drafted + len(tree) - 1,
                accepted=counts.accepted + len(walk.nodes) - 1,
                target_passes=counts.target_passes + prefill_passes + 1,
            )
            yield Step(
                tuple(choice.token for choice in walk.emitted),
                tuple(choice.logprob for choice in walk.emitted),
                counts,
                walk.stop,
                found,
                tuple(session.failed),
            )
            if walk.stop is not None:
                return

    def _open(
        self, slot: Slot, opening: Opening, params: SamplingParams, *, speculative: bool
    ) -> PolicySession:
        if not speculative:
            return PLAIN.open((), opening, greedy=params.greedy)
        return self.policy.open(slot.drafts, opening, greedy=params.greedy)

    def _verify(
        self, tree: TokenTree, history: Sequence[int], cache: KVCache, before_layer: BeforeLayer
    ) -> Tensor:
        """One pass over the uncached tokens and the tree: logits [nodes, vocab]."""
        before_root = list(history[cache.length : -1])
        pending = len(before_root)
        parents = [parent + pending for parent in tree.parents]
        block = Block([*before_root, *tree.tokens], [*range(-1, pending - 1), *parents])
        return self.target.forward(block, cache, range(pending, pending + len(tree)), before_layer)

    def _walk(
        self,
        tree: TokenTree,
        logits: Tensor,
        history: Sequence[int],
        params: SamplingParams,
        stop: StopRule,
        constraint: Constraint,
        asked: int,
    ) -> Walk:
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
                return Walk(tuple(nodes), tuple(emitted), reason)
