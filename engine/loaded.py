"""Everything a configuration names, loaded: tokenizer, template, target, drafters. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.backend import Speed
from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.decode import PLAIN, Decoder
from engine.errors import CheckpointError, ConfigError
from engine.graphs import replay_passes
from engine.healing import Beginnings, Debt
from engine.model import Transformer
from engine.prompt import PromptBuilder
from engine.protocol import StopSpec
from engine.speculation import TimedModel, Workspaces, most_rows, no_workspaces, read_grow_map, tree_policy
from engine.templates import TEMPLATES
from engine.text import TextStream
from engine.tokenizer import Tokenizer

LINE_TOKENS, KEY_ROWS = 10, 8
"""Tokens of a short line, and those of a prompt that differ from the one before a key was typed."""


def speed_of(target: TimedModel, draft: TimedModel | None) -> Speed:
    """What to expect of a target, and of the draft tier while it waits for one of the target's layers."""
    pass_ms = target.costs.ms(1)
    if draft is None:
        return Speed(pass_ms)
    layer_ms = pass_ms / target.transformer.num_layers
    return Speed(pass_ms, layer_ms + draft.costs.ms(KEY_ROWS) + (LINE_TOKENS - 1) * draft.costs.ms(1))


def require_known_ids(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the tokenizer makes ids that the model has no embedding for."""
    highest = max(tokenizer.vocabulary().values())
    if highest >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {checkpoint.folder} makes ids up to {highest}, but config.json says that the "
            f"model knows {checkpoint.config.vocab_size}; put the model's own tokenizer there"
        )


def require_same_vocabulary(target: Tokenizer, draft: Tokenizer, draft_name: str) -> None:
    """Raise ConfigError unless every token id means the same to both models.

    How far an embedding is padded beyond that may differ, and does within families.
    """
    if draft.vocabulary() != target.vocabulary():
        raise ConfigError(
            f"draft_model = {draft_name!r} has another vocabulary ({draft.vocab_size} tokens) than the "
            f"target ({target.vocab_size}); choose a draft made for its tokenizer, or set it to nothing"
        )


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """Models in memory, ready for the one thread that runs them."""

    name: str
    decoder: Decoder
    draft: Decoder | None
    """The draft model in the target's place, for the draft tier; None if there is no draft model."""
    speed: Speed
    prompts: PromptBuilder
    tokenizer: Tokenizer
    begin_token: int | None
    end_tokens: frozenset[int]
    breaks: frozenset[int]
    """Tokens whose text holds a line break."""
    beginnings: Beginnings

    @staticmethod
    def load(
        config: EngineConfig,
        progress: Callable[[float], None],
        workspaces: Workspaces = no_workspaces,
    ) -> LoadedEngine:
        """Load what `config` names, telling `progress` the share done, 0 to 1.

        `workspaces` finds the text of a workspace to draft from. Raises CheckpointError or ConfigError, each
        saying what to change.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        checkpoint = Checkpoint.open(find(config.model))
        draft = Checkpoint.open(find(config.model_drafted_with)) if config.model_drafted_with else None
        max_length = min(config.max_length or checkpoint.config.max_position, checkpoint.config.max_position)
        grow_map = read_grow_map(config, max_length)
        tokenizer = Tokenizer.load(checkpoint.folder)
        require_known_ids(tokenizer, checkpoint)
        if draft is not None:
            draft_tokenizer = Tokenizer.load(draft.folder)
            require_known_ids(draft_tokenizer, draft)
            require_same_vocabulary(tokenizer, draft_tokenizer, config.draft_model or "")
        total = checkpoint.size_bytes + (draft.size_bytes if draft else 0)

        def load(of: Checkpoint, before_bytes: int) -> TimedModel:
            share = of.size_bytes / total
            model = Transformer.load(
                of, config.device, config.dtype, progress=lambda p: progress(before_bytes / total + p * share)
            )
            if config.cuda_graph:
                replay_passes(model)
            return TimedModel.of(of, model, most_rows(config, grow_map))

        target = load(checkpoint, 0)
        timed_draft = load(draft, checkpoint.size_bytes) if draft else None
        policy = tree_policy(config, target, timed_draft, grow_map, max_length, workspaces)
        template = TEMPLATES[config.template]
        tokenizer.reserve((*template.special_tokens, *template.end_tokens))
        ends = {token for name in template.end_tokens if (token := tokenizer.find_special(name)) is not None}
        texts = tokenizer.texts()
        return LoadedEngine(
            name=config.model,
            decoder=Decoder(target.transformer, policy, max_length),
            draft=Decoder(timed_draft.transformer, PLAIN, max_length) if timed_draft else None,
            speed=speed_of(target, timed_draft),
            prompts=PromptBuilder(template, tokenizer, max_length),
            tokenizer=tokenizer,
            begin_token=checkpoint.config.bos_token_id,
            end_tokens=frozenset(ends | set(checkpoint.config.eos_token_ids)),
            breaks=frozenset(token for token, text in texts if "\n" in text),
            beginnings=Beginnings(texts),
        )

    def text_stream(self, prompt: Sequence[int], spec: StopSpec, owed: str = "") -> TextStream:
        """Turns the tokens that follow `prompt` into text, up to where `spec` or an end token stops it.

        `owed` is the word at the cursor that the prompt leaves out; see `engine.healing`.
        """
        decode = self.tokenizer.detokenizer(prompt).push
        return TextStream(decode, self.end_tokens, spec, Debt(owed, self.beginnings), self.breaks)
