"""The same weights in Hugging Face transformers, whose `generate` continues the same token ids.

With an assistant it speculates too (Leviathan et al. 2023; Gante 2023), by its own default settings.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Most of what transformers offers is annotated in part only.

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from benchmarks.turns import Run
from engine.checkpoint import Checkpoint
from engine.linear_weights import plain_weight
from engine.model import Block, Transformer

ALIKE, ALIKE_HALF = 1e-4, 5e-2
"""What logits may differ by, relative to the largest: in float32 and in half precision."""


def replica(checkpoint: Checkpoint, like: Transformer) -> PreTrainedModel:
    """The model that transformers makes of `checkpoint`, dequantised, in the dtype and place of `like`.

    Raises CheckpointError if a tensor is missing.
    """
    config: Any = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    if checkpoint.config.quantization is not None:
        del config.quantization_config
    model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(config, dtype=like.dtype))
    tied = checkpoint.config.tie_embeddings
    weights = {
        name: _plain(checkpoint, name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not (tied and name == "lm_head.weight")
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    if tied:
        model.tie_weights()
    return model.to(like.device).eval()  # pyright: ignore[reportArgumentType]


def _plain(checkpoint: Checkpoint, name: str, parameter: Tensor) -> Tensor:
    """The tensor for `parameter`, dequantised if it has to be: rounded as `engine.weights` does."""
    module, _, kind = name.rpartition(".")
    if kind == "weight" and module.endswith("_proj"):
        outputs, inputs = parameter.shape
        return plain_weight(checkpoint, module, inputs, outputs)
    return checkpoint.floats(name, tuple(parameter.shape))


@torch.inference_mode()
def require_alike(ours: Transformer, theirs: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Raise ValueError unless both give the same logits after each of `tokens`, but for rounding."""
    cache = ours.new_cache(len(tokens))
    logits = ours.forward(Block.chain(tokens), cache, range(len(tokens)), lambda _: None)
    other = theirs(torch.tensor([tokens], device=ours.device)).logits[0].float()
    apart = float((logits - other).abs().max() / logits.abs().max())
    if not apart <= (ALIKE if ours.dtype == torch.float32 else ALIKE_HALF):
        raise ValueError(
            f"transformers' logits differ from ours by {apart:.1e} of the largest: not the same weights, so "
            "there is nothing to compare"
        )


class _Clock(BaseStreamer):
    """Notes when tokens arrive."""

    def __init__(self) -> None:
        self.arrived: list[tuple[float, int]] = []
        """When, and how many. The first are the prompt's."""

    def put(self, value: Tensor) -> None:
        self.arrived.append((time.perf_counter(), value.numel()))

    def end(self) -> None:
        """Nothing more is needed."""


class Generate:
    """`generate`, greedily, of at most `max_tokens` tokens."""

    def __init__(
        self,
        model: PreTrainedModel,
        assistant: PreTrainedModel | None,
        end_tokens: Collection[int],
        max_tokens: int,
    ) -> None:
        ends = sorted(end_tokens)
        self._model = model
        self._options: dict[str, Any] = {} if assistant is None else {"assistant_model": assistant}
        self._config = GenerationConfig(
            do_sample=False, max_new_tokens=max_tokens, eos_token_id=ends, pad_token_id=ends[0]
        )

    def run(self, prompt: Sequence[int]) -> Run:
        ids, clock = torch.tensor([prompt], device=self._model.device), _Clock()
        began = time.perf_counter()
        found = self._model.generate(  # pyright: ignore[reportCallIssue]
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=self._config,
            streamer=clock,
            **self._options,
        )
        ended = time.perf_counter()
        first_at, first = clock.arrived[1]
        return Run(
            tokens=tuple(found[0, len(prompt) :].tolist()),
            first=first,
            first_s=first_at - began,
            rest_s=ended - first_at,
            passes=len(clock.arrived) - 1,
        )
