"""Runs requests on loaded models: the worker's `Backend`. Imports torch, so import it late."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.backend import BuiltPrompt, Speed, Text
from engine.config import EngineConfig
from engine.decode import Decoder, Step
from engine.errors import RequestError, UnknownModel
from engine.faults import device_errors
from engine.loaded import LoadedEngine
from engine.lora.adapter import Adapter
from engine.progress import Progress, untold
from engine.protocol import Tier
from engine.request import GenerationRequest
from engine.sampling import SamplingParams
from engine.slot import Slot
from engine.speculation import Workspaces, no_workspaces
from engine.text import TextStream
from engine.vocabulary import TokenizerVocabulary

SPARE_BRANCHES = 4
"""Branches looked at a step for each alternative wanted."""


@dataclass(frozen=True, slots=True)
class EngineBackend:
    """A `LoadedEngine` in the words of requests."""

    engine: LoadedEngine
    adapters: dict[str, Adapter] = field(default_factory=dict[str, Adapter])
    """Those that requests may name."""

    @staticmethod
    def load(
        config: EngineConfig, progress: Progress = untold, workspaces: Workspaces = no_workspaces
    ) -> EngineBackend:
        """Load what `config` names; see `LoadedEngine.load`."""
        return EngineBackend(LoadedEngine.load(config, progress, workspaces))

    @property
    def max_length(self) -> int:
        """Tokens of context, prompt and answer together."""
        return self.engine.decoder.max_length

    @property
    def vocabulary(self) -> TokenizerVocabulary:
        """The target's tokens."""
        engine = self.engine
        return TokenizerVocabulary(engine.tokenizer, engine.begin_token, self.max_length)

    @property
    def slots(self) -> int:
        """Slots of the target's there may be at a time."""
        return self.engine.slots

    @property
    def speed(self) -> Speed:
        """What passes take, as measured while loading."""
        return self.engine.speed

    @property
    def notice(self) -> str:
        """What the user should know of how it goes, or ''."""
        return self.engine.notice

    def encode(self, request: GenerationRequest) -> BuiltPrompt:
        """The request's prompt. Raises RequestError if there can be none, or it biases unknown tokens, and
        UnknownModel if its adapter is not loaded.
        """
        known = self.engine.tokenizer.vocab_size
        if any(token >= known for token, _ in request.logit_bias):
            raise RequestError(f"logit_bias: token ids must be from 0 to {known - 1}", "logit_bias")
        prompt = self.engine.prompts.build(request, self.engine.begin_token)
        return replace(prompt, adapter=self._adapter(request))

    def text(self, request: GenerationRequest, prompt: BuiltPrompt) -> TextStream:
        """What collects the text that follows `prompt`."""
        stop = replace(request.stop, strings=(*request.stop.strings, *prompt.stop_strings))
        return self.engine.text_stream(prompt.tokens, stop, prompt.owed)

    def load_adapter(self, name: str, path: str) -> None:
        """Read the adapter in the folder `path`, for requests to name it `name` from now on.

        Raises CheckpointError, naming file and key or tensor, if it cannot be used, and DeviceError.
        """
        self.adapters[name] = self.engine.decoder.target.read_adapter(Path(path))

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter. Its memory is free once no slot has keys and values of it."""
        self.adapters.pop(name, None)

    def new_slot(self, tier: Tier) -> Slot:
        """Empty caches for requests of `tier`."""
        return self._decoder(tier).new_slot()

    def generate(
        self,
        request: GenerationRequest,
        tokens: Sequence[int],
        slot: Slot,
        text: Text,
        max_tokens: int,
        before_layer: Callable[[int], None],
    ) -> Iterator[Step]:
        """Continue `tokens` by at most `max_tokens`, with the model of the request's tier."""
        params = self._params(request, answer_at=len(tokens) - len(text.offsets))
        with device_errors():
            yield from self._decoder(request.tier).generate(
                tokens,
                slot,
                params,
                text,
                max_tokens=max_tokens,
                speculative=request.speculative,
                before_layer=before_layer,
                constraint=text,
                workspace=request.workspace,
                # Some will say what the text says, or what another does.
                branches=SPARE_BRANCHES * (request.alternatives - 1),
            )

    def close(self) -> None:
        """Give back what the models hold outside of the process's own memory."""
        self.engine.close()

    def _adapter(self, request: GenerationRequest) -> Adapter | None:
        if not request.adapter or request.tier == "draft":
            return None
        adapter = self.adapters.get(request.adapter)
        if adapter is None:
            raise UnknownModel(
                f"The adapter {request.adapter!r} is not loaded. GET /v1/models lists those that are.",
                "model",
            )
        return adapter

    def _params(self, request: GenerationRequest, answer_at: int) -> SamplingParams:
        bias = dict(request.logit_bias)
        if request.ignore_end:
            bias |= dict.fromkeys(self.engine.end_tokens, -math.inf)
        return SamplingParams(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            logit_bias=tuple(bias.items()),
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            answer_at=answer_at,
            top_logprobs=request.top_logprobs,
            seed=request.seed,
        )

    def _decoder(self, tier: Tier) -> Decoder:
        if tier == "target":
            return self.engine.decoder
        assert self.engine.draft is not None, "refused before it got here: see engine.api.body"
        return self.engine.draft
