"""Asks a loaded engine, without a server between, as the front end does: its stops, and its trimming.

Each cursor is answered once with every way of drafting, from one prefill. What a good answer is, it does
not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.cursors import BLOCK_LINES, Cursor
from benchmarks.divergence import lead, parting
from engine.config import EngineConfig
from engine.decode import Decoder, Step
from engine.draft.base import Drafter, TreeLimits
from engine.draft.lookup import PromptDrafter
from engine.loaded import LoadedEngine
from engine.model import Block
from engine.policy import PlainPolicy
from engine.prompt import BuiltPrompt
from engine.protocol import Segment, StopSpec, TokenCounts
from engine.sampling import SamplingParams
from engine.slot import Slot
from engine.training.acceptance import free_drafter, full_trees
from umbrella_lsp.context import CompletionContext
from umbrella_lsp.document import indent_of
from umbrella_lsp.fit.brackets import surroundings
from umbrella_lsp.fit.postprocess import fitted
from umbrella_lsp.fit.stop import Extent, opens_block

LINE_TOKENS, BLOCK_TOKENS = 48, 96
NODES = 16
"""Of the chain and of the tree that are compared, the root included."""
SHIPPED, PLAIN, CHAIN, TREE = "shipped", "plain", "chain", "tree"


def extent(cursor: Cursor) -> Extent:
    """How far an answer may go: a line, or lines indented like the cursor's own or like what that opens."""
    around = surroundings(cursor.prefix, cursor.suffix, cursor.language)
    if cursor.position != "block":
        return Extent(StopSpec(max_lines=1), "line", around, bool(cursor.after.strip()))
    least = indent_of(cursor.before) + opens_block(cursor.before)
    return Extent(StopSpec(max_lines=BLOCK_LINES, min_indent=least or None), "block", around)


def shown(cursor: Cursor, text: str) -> str:
    """What the front end would add at the cursor of a generated `text`, '' for nothing."""
    context = CompletionContext(cursor.path, cursor.language, cursor.prefix, cursor.suffix, segments=())
    fit = fitted(text, context, extent(cursor), None)
    return fit.text.removesuffix(cursor.after[: fit.replaces])


@dataclass(frozen=True, slots=True)
class Answer:
    """One cursor answered."""

    text: str
    """As it would be inserted."""
    likelihood: float
    """The target's probability of the first line, its end included."""
    token_likelihood: float
    """The same a token: the geometric mean."""
    counts: dict[str, TokenCounts]
    """By drafter."""
    loss: float | None
    """Mean nats a token of the code before the cursor; None if the prompt does not end with any."""
    gap: float | None
    """The target's best logit less its second best where speculation as shipped and plain decoding part.

    None where they do not.
    """


def decoders(engine: LoadedEngine, config: EngineConfig) -> dict[str, Decoder]:
    """The engine's own decoder and, with its target, one for each way of drafting alone.

    The chain and the tree have the same draft model, as many nodes and as many levels; only the tree
    may branch, as widely as `config` says.
    """
    shipped = engine.decoder
    tree = TreeLimits(NODES - 1, NODES - 1, config.width, config.num_beams)
    chain = TreeLimits(NODES - 1, NODES - 1, 1, 1)

    def decoder(drafter: Drafter, limits: TreeLimits) -> Decoder:
        return Decoder(shipped.target, full_trees([drafter], limits), shipped.max_length)

    found = {
        SHIPPED: shipped,
        PLAIN: Decoder(shipped.target, PlainPolicy(), shipped.max_length),
        "ngram": decoder(PromptDrafter(), tree),
    }
    if config.engine == "dynamic" and engine.drafts:
        draft = engine.drafts[0].transformer
        for name, limits in ((CHAIN, chain), (TREE, tree)):
            found[name] = decoder(free_drafter(draft, shipped.max_length, limits), limits)
    return found


def complete(
    engine: LoadedEngine, decoder: Decoder, slot: Slot, prompt: BuiltPrompt, spec: StopSpec, max_tokens: int
) -> tuple[str, list[Step]]:
    """What `decoder` writes after `prompt`, greedily, and the passes that it took."""
    stream = engine.text_stream(prompt.tokens, spec, prompt.owed)
    steps = list(
        decoder.generate(
            prompt.tokens,
            slot,
            SamplingParams(),
            stream,
            max_tokens=max_tokens,
            speculative=True,
            before_layer=lambda _: None,
            constraint=stream,
        )
    )
    return stream.finish(), steps


class Judge:
    """Answers cursors greedily with one engine."""

    def __init__(self, engine: LoadedEngine, config: EngineConfig) -> None:
        self._engine = engine
        self._target = engine.decoder.target
        self._decoders = decoders(engine, config)
        self._slots = {name: decoder.new_slot() for name, decoder in self._decoders.items()}
        # One cache of the target's for all, so that a prompt is run once and not once a drafter.
        self._cache = max((slot.target for slot in self._slots.values()), key=lambda cache: cache.capacity)
        for slot in self._slots.values():
            slot.target = self._cache

    def ask(self, cursor: Cursor) -> Answer:
        """Complete `cursor` with every decoder. Raises RequestError if the context holds no prompt at all."""
        segments = (Segment("prefix", cursor.prefix), Segment("suffix", cursor.suffix))
        reserve = BLOCK_TOKENS if cursor.position == "block" else LINE_TOKENS
        built = self._engine.prompts.code(segments, cursor.path, cursor.language, reserve)
        prompt, typed = built.tokens, cursor.prefix.removesuffix(built.owed)
        loss = self._read(prompt, typed)
        spec = extent(cursor).spec
        runs = {
            name: complete(self._engine, decoder, self._slots[name], built, spec, reserve)
            for name, decoder in self._decoders.items()
        }
        text, steps = runs[SHIPPED]
        tokens, plain = _tokens(steps), _tokens(runs[PLAIN][1])
        logprobs = self._first_line(prompt, steps)
        return Answer(
            text=shown(cursor, text),
            likelihood=math.exp(sum(logprobs)),
            token_likelihood=math.exp(sum(logprobs) / max(1, len(logprobs))),
            counts={name: steps[-1].counts for name, (_, steps) in runs.items()},
            loss=loss,
            gap=self._gap(prompt, tokens, plain),
        )

    def _forward(self, tokens: Sequence[int], rows: range) -> torch.Tensor:
        """Run `tokens` anew and keep them in the shared cache: logits of `rows` [len(rows), vocab]."""
        self._cache.truncate(0)
        logits = self._target.forward(Block.chain(tokens), self._cache, rows, lambda _: None)
        self._cache.keep(range(len(tokens)), tokens)
        return logits.cpu()

    def _read(self, prompt: Sequence[int], prefix: str) -> float | None:
        """Run the prompt. Returns the loss over the code in it that stands before the cursor."""
        code = min(len(self._engine.tokenizer.encode(prefix)), len(prompt) - 1)
        logits = self._forward(prompt, range(len(prompt) - code - 1, len(prompt) - 1))
        if not code or list(prompt[-code:]) != self._engine.tokenizer.encode(prefix)[-code:]:
            return None  # Nothing stands before the cursor, or the template puts the suffix there.
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(prompt[-code:])))

    def _first_line(self, prompt: Sequence[int], steps: Sequence[Step]) -> list[float]:
        """Log-probabilities of the tokens up to the one that ends the first line or the text."""
        push = self._engine.tokenizer.detokenizer(prompt).push
        found: list[float] = []
        for step in steps:
            for token, logprob in zip(step.tokens, step.logprobs, strict=True):
                found.append(logprob)
                if "\n" in push(token):
                    return found
        return found

    def _gap(self, prompt: Sequence[int], tokens: Sequence[int], plain: Sequence[int]) -> float | None:
        agreed = parting(tokens, plain)
        if agreed is None:
            return None
        history = [*prompt, *tokens[:agreed]]
        return lead(self._forward(history, range(len(history) - 1, len(history)))[0])


def _tokens(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]
