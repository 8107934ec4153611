"""llama-server's ``POST /infill``: code at a cursor, by the engine's own template."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from engine.api.llama import LlamaOptions, generation
from engine.config import EngineConfig
from engine.errors import RequestError
from engine.protocol import MAX_SEGMENTS, Segment
from engine.request import CodePrompt, GenerationRequest


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """Text from elsewhere in the project."""

    text: str
    filename: str = ""


@dataclass(frozen=True, slots=True)
class InfillBody(LlamaOptions):
    """The body of ``POST /infill``. An `n_predict` of -1 is as none."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: tuple[ExtraFile, ...] = ()
    prompt: str = ""
    """Text between the prefix and the cursor."""

    def __post_init__(self) -> None:
        LlamaOptions.__post_init__(self)  # `super()` does not work in a class that was given slots.
        if len(self.input_extra) > MAX_SEGMENTS:
            raise ValueError(f"input_extra must be at most {MAX_SEGMENTS}")


def to_request(body: InfillBody, config: EngineConfig, adapters: Collection[str] = ()) -> GenerationRequest:
    """The generation that `body` asks for, with `adapters` to choose from.

    Segments of `umbrella` come first and keep their indices; those made of `input_prefix` with
    `prompt`, `input_suffix` and `input_extra` follow, where there are any. Raises RequestError.
    """
    ours = body.umbrella
    prompt = CodePrompt((*ours.segments, *_segments(body)), ours.path, ours.language)
    length = config.generation_length if body.n_predict in (None, -1) else body.n_predict
    return generation(body, prompt, length, config, adapters)


def _segments(body: InfillBody) -> Iterator[Segment]:
    kinds = {segment.kind for segment in body.umbrella.segments}
    if prefix := body.input_prefix + body.prompt:
        if "prefix" in kinds:
            name = "input_prefix" if body.input_prefix else "prompt"
            raise RequestError(f"{name}: umbrella.segments has a prefix too; send only one of them.", name)
        yield Segment("prefix", prefix, body.umbrella.path, body.umbrella.language)
    if body.input_suffix:
        if "suffix" in kinds:
            raise RequestError(
                "input_suffix: umbrella.segments has a suffix too; send only one of them.", "input_suffix"
            )
        yield Segment("suffix", body.input_suffix, body.umbrella.path, body.umbrella.language)
    for extra in body.input_extra:
        yield Segment("snippet", extra.text, path=extra.filename)
