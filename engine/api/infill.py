"""llama-server's ``POST /infill``. Its fields keep their meaning; those not named here are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from engine.api.body import as_strings, chosen_seed, served_tier, token_biases
from engine.api.respond import umbrella_of
from engine.config import EngineConfig
from engine.errors import RequestError
from engine.jobs import Chunk
from engine.protocol import Segment, StopReason, Timings, TokenCounts, UmbrellaRequest
from engine.request import CodePrompt, GenerationRequest
from engine.schema import require_between

_STOP_TYPES = {
    StopReason.END: "eos",
    StopReason.STRING: "word",
    StopReason.LINES: "word",
    StopReason.INDENT: "word",
    StopReason.LENGTH: "limit",
    StopReason.DEADLINE: "limit",
    StopReason.CANCELLED: "none",
}


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """Text from elsewhere in the project."""

    text: str
    filename: str = ""


@dataclass(frozen=True, slots=True)
class InfillBody:
    """The body of ``POST /infill``. None leaves a choice to the engine's configuration."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: tuple[ExtraFile, ...] = ()
    prompt: str = ""
    """Text between the prefix and the cursor."""
    n_predict: int | None = None
    """-1, as None, is the configuration's `generation_length`. 0 only evaluates and caches the prompt."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float = 0.0
    repeat_penalty: float | None = None
    seed: int | None = None
    """-1, as None, is a new one each time."""
    logit_bias: object = None
    """llama-server's list or OpenAI's object; see `token_biases`."""
    stop: str | tuple[str, ...] | None = None
    stream: bool = False
    t_max_predict_ms: float = 0.0
    """0: no limit."""
    umbrella: UmbrellaRequest = field(default_factory=UmbrellaRequest)

    def __post_init__(self) -> None:
        if self.n_predict is not None and self.n_predict != -1 and not 0 <= self.n_predict <= 1 << 20:
            raise ValueError(f"n_predict must be -1, or between 0 and {1 << 20}")
        require_between("temperature", self.temperature, 0, 100)
        require_between("top_k", self.top_k, -1, 1 << 24)
        require_between("top_p", self.top_p, 0, 1)
        require_between("min_p", self.min_p, 0, 1)
        require_between("repeat_penalty", self.repeat_penalty, 0.01, 100)
        require_between("seed", self.seed, -1, (1 << 63) - 1)
        require_between("t_max_predict_ms", self.t_max_predict_ms, 0, 10**9)
        token_biases(self.logit_bias)
        if "" in as_strings(self.stop):
            raise ValueError("stop must not hold an empty string")


def to_request(body: InfillBody, config: EngineConfig) -> GenerationRequest:
    """The generation that `body` asks for.

    Segments of `umbrella` come first and keep their indices; those made of `input_prefix` with
    `prompt`, `input_suffix` and `input_extra` follow, where there are any. Raises RequestError.
    """
    ours = body.umbrella
    segments = (*ours.segments, *_segments(body))
    length = body.n_predict if body.n_predict not in (None, -1) else config.generation_length
    return GenerationRequest(
        prompt=CodePrompt(segments, ours.path, ours.language),
        max_tokens=length,
        stop=replace(ours.stop, strings=(*ours.stop.strings, *as_strings(body.stop))),
        temperature=config.temperature if body.temperature is None else body.temperature,
        top_k=max(0, config.topk if body.top_k is None else body.top_k),
        top_p=config.topp if body.top_p is None else body.top_p,
        min_p=body.min_p,
        repetition_penalty=config.repetition_penalty if body.repeat_penalty is None else body.repeat_penalty,
        seed=chosen_seed(body.seed),
        logit_bias=token_biases(body.logit_bias),
        deadline_ms=body.t_max_predict_ms or None,
        session=ours.session,
        workspace=ours.workspace,
        priority=ours.priority,
        tier=served_tier(ours, config),
        alternatives=ours.n,
        speculative=ours.speculative,
    )


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


@dataclass(frozen=True, slots=True)
class InfillDialect:
    """Words answers as llama-server does."""

    model: str
    stream: bool
    endpoint: str = "/infill"
    length_field: str = "n_predict"
    farewell: bytes = b""

    def events(self, chunk: Chunk) -> Iterator[object]:
        """One event a chunk; the last one of a text carries what a whole answer would."""
        yield self._object([chunk])

    def whole(self, texts: Sequence[Chunk]) -> object:
        """llama-server's answer object for the first of `texts`; the others are in our part of it."""
        return self._object(texts)

    def _object(self, texts: Sequence[Chunk]) -> dict[str, object]:
        main, ending, newest = texts[0], texts[0].ending, texts[-1]
        answer: dict[str, object] = {
            "index": main.index,
            "content": main.text,
            "stop": ending is not None,
            "umbrella": umbrella_of(main, texts[1:]),
        }
        if ending is None:
            return answer
        counts = newest.counts
        return answer | {
            "stop_type": _STOP_TYPES[ending.stop],
            "stopping_word": ending.stop_string,
            "model": self.model,
            "tokens_predicted": counts.generated,
            "tokens_evaluated": counts.prompt,
            "tokens_cached": counts.reused,
            "truncated": ending.truncated,
            "timings": llama_timings(counts, newest.timings),
        }


def llama_timings(counts: TokenCounts, timings: Timings) -> dict[str, float]:
    """llama-server's `timings`; rates are 0 where nothing was timed."""

    def rate(tokens: int, ms: float) -> float:
        return 1000 * tokens / ms if ms > 0 else 0.0

    evaluated = counts.prompt - counts.reused
    return {
        "cache_n": counts.reused,
        "prompt_n": evaluated,
        "prompt_ms": timings.prefill_ms,
        "prompt_per_token_ms": timings.prefill_ms / evaluated if evaluated else 0.0,
        "prompt_per_second": rate(evaluated, timings.prefill_ms),
        "predicted_n": counts.generated,
        "predicted_ms": timings.decode_ms,
        "predicted_per_token_ms": timings.decode_ms / counts.generated if counts.generated else 0.0,
        "predicted_per_second": rate(counts.generated, timings.decode_ms),
        "draft_n": counts.drafted,
        "draft_n_accepted": counts.accepted,
    }
