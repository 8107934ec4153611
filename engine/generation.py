"""Runs requests on loaded models: the worker's `Backend`. Imports torch, so import it late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.backend import BuiltPrompt, Text
from engine.config import EngineConfig
from engine.decode import Slot, Step
from engine.loaded import LoadedEngine
from engine.request import CodePrompt, GenerationRequest, TextPrompt
from engine.sampling import SamplingParams
from engine.text import TextStream


@dataclass(frozen=True, slots=True)
class EngineBackend:
    """A `LoadedEngine` in the words of requests."""

    engine: LoadedEngine

    @staticmethod
    def load(config: EngineConfig, progress: Callable[[float], None]) -> EngineBackend:
        """Load what `config` names. Raises CheckpointError or ConfigError."""
        return EngineBackend(LoadedEngine.load(config, progress))

    def encode(self, request: GenerationRequest) -> BuiltPrompt:
        """The request's prompt. Raises RequestError if there can be none."""
        prompts, prompt, reserve = self.engine.prompts, request.prompt, request.max_tokens
        if isinstance(prompt, CodePrompt):
            return prompts.code(prompt.segments, prompt.path, prompt.language, reserve)
        if isinstance(prompt, TextPrompt):
            return prompts.raw(prompt.text, self.engine.begin_token, reserve)
        return prompts.ids(prompt.tokens, reserve)

    def text(self, request: GenerationRequest, prompt: BuiltPrompt) -> TextStream:
        """What collects the text that follows `prompt`."""
        return self.engine.text_stream(prompt.tokens, request.stop, prompt.owed)

    def new_slot(self) -> Slot:
        """Empty caches."""
        return self.engine.decoder.new_slot()

    def generate(
        self,
        request: GenerationRequest,
        tokens: Sequence[int],
        slot: Slot,
        text: Text,
        max_tokens: int,
        before_layer: Callable[[int], None],
    ) -> Iterator[Step]:
        """Continue `tokens` by at most `max_tokens`."""
        params = SamplingParams(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            seed=request.seed,
        )
        return self.engine.decoder.generate(
            tokens,
            slot,
            params,
            text,
            max_tokens=max_tokens,
            speculative=request.speculative,
            before_layer=before_layer,
            constraint=text,
        )
