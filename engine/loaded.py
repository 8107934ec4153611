"""Everything a configuration names, loaded: tokenizer, template, target, drafters. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.decode import Decoder
from engine.draft import Drafter, ModelDrafter, NgramDrafter, TreeLimits
from engine.errors import CheckpointError, ConfigError
from engine.healing import Beginnings, Debt
from engine.model import Transformer
from engine.prompt import PromptBuilder
from engine.protocol import StopSpec
from engine.templates import TEMPLATES
from engine.text import TextStream
from engine.tokenizer import Tokenizer


def require_known_ids(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the tokenizer makes ids that the model has no embedding for."""
    highest = max(tokenizer.vocabulary().values())
    if highest >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {checkpoint.folder} makes ids up to {highest}, but config.json says that the "
            f"model knows {checkpoint.config.vocab_size}; put the model's own tokenizer there"
        )


def require_same_vocabulary(
    target: Tokenizer, target_size: int, draft: Tokenizer, draft_size: int, draft_name: str
) -> None:
    """Raise ConfigError unless every token id means the same to both models."""
    if draft_size != target_size or draft.vocabulary() != target.vocabulary():
        raise ConfigError(
            f"draft_model = {draft_name!r} has another vocabulary than the target ({draft_size} tokens, the "
            f"target {target_size}); choose a draft made for the target's tokenizer, or set it to nothing"
        )


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """Models in memory, ready for the one thread that runs them."""

    name: str
    decoder: Decoder
    prompts: PromptBuilder
    tokenizer: Tokenizer
    begin_token: int | None
    end_tokens: frozenset[int]
    beginnings: Beginnings

    @staticmethod
    def load(config: EngineConfig, progress: Callable[[float], None]) -> LoadedEngine:
        """Load what `config` names, telling `progress` the share done, 0 to 1.

        Raises CheckpointError or ConfigError, each saying what to change.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        checkpoint = Checkpoint.open(find(config.model))
        draft = Checkpoint.open(find(config.draft_model)) if config.draft_model else None
        total = checkpoint.size_bytes + (draft.size_bytes if draft else 0)
        tokenizer = Tokenizer.load(checkpoint.folder)
        require_known_ids(tokenizer, checkpoint)
        max_length = min(config.max_length or checkpoint.config.max_position, checkpoint.config.max_position)
        limits = TreeLimits(config.tree_size - 1, config.depth, config.width, config.num_beams)

        def load(of: Checkpoint, done_bytes: int) -> Transformer:
            share = of.size_bytes / total
            return Transformer.load(
                of, config.device, config.dtype, progress=lambda p: progress(done_bytes / total + p * share)
            )

        target = load(checkpoint, 0)
        drafters: list[Drafter] = []
        if config.engine == "dynamic":
            drafters.append(NgramDrafter())
            if draft and config.draft_model:
                other = Tokenizer.load(draft.folder)
                size, draft_size = checkpoint.config.vocab_size, draft.config.vocab_size
                require_same_vocabulary(tokenizer, size, other, draft_size, config.draft_model)
                model = load(draft, checkpoint.size_bytes)
                drafters.append(ModelDrafter(model, max_length, limits))
        template = TEMPLATES[config.template]
        tokenizer.reserve((*template.special_tokens, *template.end_tokens))
        ends = {token for name in template.end_tokens if (token := tokenizer.find_special(name)) is not None}
        return LoadedEngine(
            name=config.model,
            decoder=Decoder(target, drafters, limits, max_length),
            prompts=PromptBuilder(template, tokenizer, max_length),
            tokenizer=tokenizer,
            begin_token=checkpoint.config.bos_token_id,
            end_tokens=frozenset(ends | set(checkpoint.config.eos_token_ids)),
            beginnings=Beginnings(tokenizer.texts()),
        )

    def text_stream(self, prompt: Sequence[int], spec: StopSpec, owed: str = "") -> TextStream:
        """Turns the tokens that follow `prompt` into text, up to where `spec` or an end token stops it.

        `owed` is the word at the cursor that the prompt leaves out; see `engine.healing`.
        """
        decode = self.tokenizer.detokenizer(prompt).push
        return TextStream(decode, self.end_tokens, spec, Debt(owed, self.beginnings))
