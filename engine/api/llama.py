"""What llama-server's ``/infill`` and ``/completion`` have in common: options in, answers out.

Fields keep llama-server's meaning. Those not named here are ignored, as it ignores what it does not know.
Some of its own are among them: samplers and their order (ours is fixed), `repeat_last_n` (a penalty looks at
the whole text), `cache_prompt` and `id_slot` (a prompt is looked up in every slot), `lora` (`model` does it).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import cast

from engine.api.body import as_strings, chosen_seed, client_of, require_stops, served_tier, token_biases
from engine.api.models import adapter_or_default
from engine.api.respond import Texts, umbrella_of
from engine.config import EngineConfig
from engine.executor import Vocabulary
from engine.jobs import Chunk
from engine.protocol import Priority, StopReason, Timings, TokenCounts, UmbrellaRequest
from engine.request import CodePrompt, GenerationRequest, Prompt
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
MAX_TOP_LOGPROBS = 20
MAX_PENALTY = 100


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """Fields of either body. None leaves a choice to the engine's configuration."""

    model: str | None = None
    """An adapter's name; any other is ignored."""
    n_predict: int | None = None
    """None is the configuration's `generation_length`. 0 only evaluates and caches the prompt."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float = 0.0
    repeat_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    """-1, as None, is a new one each time."""
    logit_bias: object = None
    """llama-server's list or OpenAI's object; see `token_biases`."""
    stop: str | tuple[str, ...] | None = None
    ignore_eos: bool = False
    n_indent: int = 0
    """As `StopSpec.min_indent`, where that is not given. 0: no limit."""
    t_max_predict_ms: float = 0.0
    """0: no limit."""
    n_cmpl: int = 1
    """Texts at most: the main one, and others that the target has verified beside it."""
    n_probs: int = 0
    """At each position, how many of the most probable tokens to report, before temperature and filters."""
    stream: bool = False
    return_tokens: bool = False
    response_fields: tuple[str, ...] | None = None
    """All that the last object is to have: names of its fields, or ``"outer/inner"``."""
    grammar: str | None = None
    json_schema: object = None
    post_sampling_probs: bool | None = None
    umbrella: UmbrellaRequest = field(default_factory=UmbrellaRequest)

    def __post_init__(self) -> None:
        if self.n_predict is not None and self.n_predict != -1 and not 0 <= self.n_predict <= 1 << 20:
            raise ValueError(f"n_predict must be -1, or between 0 and {1 << 20}")
        require_between("temperature", self.temperature, 0, 100)
        require_between("top_k", self.top_k, -1, 1 << 24)
        require_between("top_p", self.top_p, 0, 1)
        require_between("min_p", self.min_p, 0, 1)
        require_between("repeat_penalty", self.repeat_penalty, 0.01, 100)
        require_between("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        require_between("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        require_between("seed", self.seed, -1, (1 << 63) - 1)
        require_between("n_indent", self.n_indent, 0, 1 << 20)
        require_between("t_max_predict_ms", self.t_max_predict_ms, 0, 10**9)
        require_between("n_cmpl", self.n_cmpl, 1, 16)
        require_between("n_probs", self.n_probs, 0, MAX_TOP_LOGPROBS)
        token_biases(self.logit_bias)
        require_stops(self.stop)
        for name in ("grammar", "json_schema", "post_sampling_probs"):
            value = getattr(self, name)
            if value or (name == "json_schema" and value is not None):
                raise ValueError(f"{name} is not supported; leave it out")


def generation(
    options: LlamaOptions,
    prompt: Prompt,
    max_tokens: int,
    config: EngineConfig,
    adapters: Collection[str] = (),
) -> GenerationRequest:
    """The generation that `options` ask for, with `adapters` to choose from. Raises RequestError.

    It is as urgent as typing where code is filled in, and as a chat elsewhere.
    """
    ours = options.umbrella
    stop = replace(
        ours.stop,
        strings=(*ours.stop.strings, *as_strings(options.stop)),
        min_indent=ours.stop.min_indent if ours.stop.min_indent is not None else options.n_indent or None,
    )
    # Nobody reads what a prompt is only cached for.
    spoken: Priority = "typing" if isinstance(prompt, CodePrompt) else "chat"
    usual: Priority = spoken if max_tokens else "prefetch"
    return GenerationRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        stop=stop,
        temperature=config.temperature if options.temperature is None else options.temperature,
        top_k=max(0, config.topk if options.top_k is None else options.top_k),
        top_p=config.topp if options.top_p is None else options.top_p,
        min_p=options.min_p,
        repetition_penalty=(
            config.repetition_penalty if options.repeat_penalty is None else options.repeat_penalty
        ),
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=chosen_seed(options.seed),
        logit_bias=token_biases(options.logit_bias),
        deadline_ms=options.t_max_predict_ms or None,
        session=ours.session,
        workspace=ours.workspace,
        priority=ours.priority or usual,
        tier=served_tier(ours, config),
        alternatives=max(ours.n, options.n_cmpl),
        speculative=ours.speculative,
        top_logprobs=options.n_probs,
        ignore_end=options.ignore_eos,
        adapter=adapter_or_default(options.model, config, adapters),
        client=client_of("", ours),
    )


def settings_of(request: GenerationRequest, n_ctx: int) -> dict[str, object]:
    """llama-server's `generation_settings`, as far as we have them."""
    return {
        "n_ctx": n_ctx,
        "n_predict": request.max_tokens,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "repeat_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "stop": request.stop.strings,
        "ignore_eos": request.ignore_end,
        "n_probs": request.top_logprobs,
    }


@dataclass(frozen=True, slots=True)
class LlamaDialect:
    """Words answers as llama-server does."""

    endpoint: str
    model: str
    options: LlamaOptions
    settings: dict[str, object]
    vocabulary: Vocabulary | None = None
    """For the text of the tokens that `n_probs` asks for."""
    length_field: str = "n_predict"
    farewell: bytes = b""

    @property
    def stream(self) -> bool:
        return self.options.stream

    def events(self, job: int, chunk: Chunk) -> Iterator[object]:
        """One event a chunk; the last one of a text carries what a whole answer would."""
        yield self._object(job, chunk, chunk)

    def whole(self, jobs: Sequence[Texts]) -> object:
        """An object for each text that was asked for in llama-server's words: alone, or in a list.

        What `umbrella.n` asked for is in our part of the main text's.
        """
        objects = [
            self._object(job, text, texts[-1], texts[1:] if text is texts[0] else ())
            for job, texts in enumerate(jobs)
            for text in texts[: self.options.n_cmpl]
        ]
        alone = len(jobs) == 1 and self.options.n_cmpl == 1
        return objects[0] if alone else objects

    def _object(self, job: int, text: Chunk, newest: Chunk, others: Texts = ()) -> dict[str, object]:
        ending, counts = text.ending, newest.counts
        answer: dict[str, object] = {
            "index": job * self.options.n_cmpl + text.index,
            "content": text.text,
            "tokens": text.tokens if self.options.return_tokens or self.stream else (),
            "stop": ending is not None,
            "id_slot": -1,
            "tokens_predicted": counts.generated,
            "tokens_evaluated": counts.prompt,
            "umbrella": umbrella_of(text, others),
        }
        if text.tops:
            answer["completion_probabilities"] = self._probabilities(text)
        if ending is None:
            return answer
        answer |= {
            "generation_settings": self.settings,
            "stop_type": _STOP_TYPES[ending.stop],
            "stopping_word": ending.stop_string,
            "model": self.model,
            "tokens_cached": counts.reused,
            "truncated": ending.truncated,
            "timings": llama_timings(counts, newest.timings),
        }
        fields = self.options.response_fields
        return answer if fields is None else picked(answer, fields)

    def _probabilities(self, text: Chunk) -> list[object]:
        return [
            self._token(token, logprob)
            | {"top_logprobs": [self._token(other, its_logprob) for other, its_logprob in tops]}
            for token, logprob, tops in zip(text.tokens, text.logprobs, text.tops, strict=True)
        ]

    def _token(self, token: int, logprob: float) -> dict[str, object]:
        piece = self.vocabulary.piece(token) if self.vocabulary else b""
        text = piece.decode(errors="replace")
        return {"id": token, "token": text, "bytes": list(piece), "logprob": logprob}


def picked(answer: dict[str, object], fields: Sequence[str]) -> dict[str, object]:
    """What of `answer` the `fields` name, under these names; a slash goes into an inner object."""
    found = {name: reduce(_inner, name.split("/"), answer) for name in fields}
    return {name: value for name, value in found.items() if value is not None}


def _inner(value: object, name: str) -> object:
    """The field of this name, or None."""
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


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
