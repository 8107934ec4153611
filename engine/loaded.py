"""Everything a configuration names, loaded: tokenizer, template, target, drafters. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from engine import chat_template
from engine.backend import Speed
from engine.checkpoint import Checkpoint, find
from engine.config import EngineConfig
from engine.config_tables import ModelName
from engine.costs import CostTable
from engine.decode import PLAIN, Decoder
from engine.errors import CheckpointError, ConfigError
from engine.graphs import replay_passes
from engine.healing import Beginnings, Debt
from engine.model import Transformer
from engine.offload.machine import CUDA_BYTES, Machine
from engine.offload.plan import MemoryPlan, plan
from engine.progress import Progress, untold
from engine.prompt import PromptBuilder
from engine.protocol import StopSpec
from engine.speculation import TimedModel, Workspaces, most_rows, no_workspaces, read_grow_map, tree_policy
from engine.templates import TEMPLATES
from engine.text import TextStream
from engine.tokenizer import Tokenizer
from engine.weights import choose_device

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
    """Raise ConfigError unless every id of ordinary text means the same to both models.

    How far an embedding is padded beyond that may differ, and does within families, as do the names of
    special tokens: what the draft makes of those costs guesses at worst.
    """
    if draft.ordinary() != target.ordinary():
        raise ConfigError(
            f"draft_model = {draft_name!r} has another vocabulary ({draft.vocab_size} tokens) than the "
            f"target ({target.vocab_size}); choose a draft made for its tokenizer, or set it to nothing"
        )


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """Models in memory, ready for the one thread that runs them."""

    name: str
    decoder: Decoder
    drafts: tuple[TimedModel, ...]
    """The draft models, in the order of the configuration."""
    draft: Decoder | None
    """The first of them in the target's place, for the draft tier; None if there is no draft model."""
    costs: CostTable
    """What passes of the target take."""
    speed: Speed
    prompts: PromptBuilder
    tokenizer: Tokenizer
    begin_token: int | None
    end_tokens: frozenset[int]
    breaks: frozenset[int]
    """Tokens whose text holds a line break."""
    beginnings: Beginnings
    slots: int
    """Prompts whose keys and values the target may keep."""

    @staticmethod
    def load(
        config: EngineConfig,
        progress: Progress = untold,
        workspaces: Workspaces = no_workspaces,
    ) -> LoadedEngine:
        """Load what `config` names.

        `workspaces` finds the text of a workspace to draft from. Raises CheckpointError or ConfigError, each
        saying what to change.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        fetching = progress if config.download else None
        checkpoint = Checkpoint.open(find(config.model, config.revision or None, fetching), config.quantize)
        tokenizer = Tokenizer.load(checkpoint.folder)
        require_known_ids(tokenizer, checkpoint)
        drafts = [_open_draft(draft, tokenizer, fetching) for draft in config.drafts]
        template = TEMPLATES[config.template]
        tokenizer.reserve((*template.special_tokens, *template.end_tokens))
        chats = chat_template.load(tokenizer, config.chat_template)
        memory = plan(config, Machine.here(config))
        _hold_to(config.max_vram, memory, choose_device(config.device))
        grow_map = read_grow_map(config, memory.max_length)
        with ExitStack() as undo:
            rows = most_rows(config, grow_map)
            target, *timed = _load_models(config, memory, [checkpoint, *drafts], rows, progress, undo)
            policy = tree_policy(config, target, timed, grow_map, memory.max_length, workspaces)
            end_tokens = (*template.end_tokens, *(chats.end_tokens if chats else ()))
            found = map(tokenizer.find_special, end_tokens)
            ends = {token for token in found if token is not None}
            texts = tokenizer.texts()
            undo.pop_all()
        return LoadedEngine(
            name=config.model,
            decoder=Decoder(target.transformer, policy, memory.max_length),
            drafts=tuple(timed),
            draft=Decoder(timed[0].transformer, PLAIN, memory.max_length) if timed else None,
            costs=target.costs,
            speed=speed_of(target, timed[0] if timed else None),
            prompts=PromptBuilder(template, tokenizer, memory.max_length, chats=chats),
            tokenizer=tokenizer,
            begin_token=checkpoint.config.bos_token_id,
            end_tokens=frozenset(ends | set(checkpoint.config.eos_token_ids)),
            breaks=frozenset(token for token, text in texts if "\n" in text),
            beginnings=Beginnings(texts),
            slots=memory.slots,
        )

    @property
    def notice(self) -> str:
        """What the user should know of how it goes; or ''."""
        return self.decoder.target.notice

    def close(self) -> None:
        """Give back the models' memory, and end what fetches their layers. Nothing can be run any more."""
        self.decoder.target.close()
        for draft in self.drafts:
            draft.transformer.close()

    def text_stream(self, prompt: Sequence[int], spec: StopSpec, owed: str = "") -> TextStream:
        """Turns the tokens that follow `prompt` into text, up to where `spec` or an end token stops it.

        `owed` is the word at the cursor that the prompt leaves out; see `engine.healing`.
        """
        decode = self.tokenizer.detokenizer(prompt).push
        return TextStream(decode, self.end_tokens, spec, Debt(owed, self.beginnings), self.breaks)


def _open_draft(draft: ModelName, tokenizer: Tokenizer, fetching: Progress | None) -> Checkpoint:
    """A draft model for a target of that `tokenizer`. Raises as `LoadedEngine.load` does."""
    checkpoint = Checkpoint.open(find(draft.name, draft.revision, fetching))
    own = Tokenizer.load(checkpoint.folder)
    require_known_ids(own, checkpoint)
    require_same_vocabulary(tokenizer, own, draft.name)
    return checkpoint


def _hold_to(max_vram: float | None, memory: MemoryPlan, device: torch.device) -> None:
    """Have torch free what it keeps of earlier passes before it goes beyond a `max_vram` that is stated."""
    if max_vram is not None and memory.device_budget is not None and device.type == "cuda":
        share = (memory.device_budget - CUDA_BYTES) / torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(share, device.index)


def _load_models(
    config: EngineConfig,
    memory: MemoryPlan,
    checkpoints: Sequence[Checkpoint],
    rows: int,
    progress: Progress,
    undo: ExitStack,
) -> list[TimedModel]:
    """The target and the drafts, timed with passes of up to `rows` rows; `undo` gets what closes them."""
    every_bytes = sum(each.size_bytes for each in checkpoints)
    done_bytes, loaded = 0, list[TimedModel]()

    def told(part: float, what: str) -> None:
        done = (done_bytes + part * checkpoint.size_bytes) / every_bytes
        progress(done, f"{what} of a draft" if loaded else what)

    for checkpoint, placement in zip(checkpoints, (memory.target, *memory.drafts), strict=True):
        model = Transformer.load(checkpoint, config.device, placement=placement, progress=told)
        undo.callback(model.close)
        if config.cuda_graph:
            replay_passes(model)
        if loaded:
            model.relief = loaded[0].transformer
        told(1.0, "Timing passes")
        loaded.append(TimedModel.of(checkpoint, model, rows))
        done_bytes += checkpoint.size_bytes
    return loaded
