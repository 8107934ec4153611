"""TGI's ``POST /generate`` and ``POST /generate_stream``, and ``POST /``, which is either.

Texts end before a stop string, as in the other APIs, where TGI's have it at their end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from engine import __version__
from engine.api.body import chosen_seed, client_of, require_stops, served_tier
from engine.api.choices import MAX_CHOICES, SEEDS, best, require_room, several
from engine.api.respond import Texts, umbrella_of, umbrella_of_all
from engine.config import EngineConfig
from engine.executor import Executor
from engine.jobs import Chunk
from engine.protocol import StopReason, UmbrellaRequest
from engine.request import GenerationRequest, TextPrompt
from engine.schema import require_between

DEFAULT_TEMPERATURE = 1.0
"""TGI's, where a request wants to sample and does not say how."""
_FINISH_REASONS = {
    StopReason.END: "eos_token",
    StopReason.LENGTH: "length",
    StopReason.DEADLINE: "length",
}
_UNSUPPORTED = ("truncate", "typical_p", "watermark", "grammar", "top_n_tokens", "decoder_input_details")


@dataclass(frozen=True, slots=True)
class GenerateParameters:
    """TGI's `parameters`. None leaves a choice to the engine's configuration."""

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    best_of: int | None = None
    """Answers of which the one with the highest mean log-probability is told."""
    adapter_id: str | None = None
    """A model's name, as OpenAI's `model`."""
    truncate: object = None
    typical_p: object = None
    watermark: object = None
    grammar: object = None
    top_n_tokens: object = None
    decoder_input_details: object = None

    def __post_init__(self) -> None:
        require_between("max_new_tokens", self.max_new_tokens, 1, 1 << 20)
        require_between("temperature", self.temperature, 0, 100)
        require_between("top_k", self.top_k, 0, 1 << 24)
        require_between("top_p", self.top_p, 0, 1)
        require_between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        require_between("frequency_penalty", self.frequency_penalty, -2, 2)
        require_between("seed", self.seed, 0, SEEDS - 1)
        require_between("best_of", self.best_of, 1, MAX_CHOICES)
        require_stops(self.stop)
        for name in _UNSUPPORTED:
            if getattr(self, name):
                raise ValueError(f"{name} is not supported; leave it out")


@dataclass(frozen=True, slots=True)
class GenerateBody:
    """The body of all three."""

    inputs: str
    parameters: GenerateParameters = field(default_factory=GenerateParameters)
    stream: bool = False
    """Of ``POST /`` only."""
    umbrella: UmbrellaRequest = field(default_factory=UmbrellaRequest)


def to_requests(
    body: GenerateBody, config: EngineConfig, adapter: str, *, stream: bool
) -> list[GenerationRequest]:
    """The generations that `body` asks for, of which one is told. Raises RequestError."""
    asked, ours = body.parameters, body.umbrella
    tried = asked.best_of or 1
    # A stream cannot take back what it has told.
    require_room(tried, "parameters.best_of", ours, replace(config, max_queue=1) if stream else config)
    default = DEFAULT_TEMPERATURE if asked.do_sample else config.temperature
    request = GenerationRequest(
        prompt=TextPrompt(body.inputs),
        max_tokens=asked.max_new_tokens or config.generation_length,
        stop=replace(ours.stop, strings=(*ours.stop.strings, *(asked.stop or ()))),
        temperature=default if asked.temperature is None else asked.temperature,
        top_k=config.topk if asked.top_k is None else asked.top_k,
        top_p=config.topp if asked.top_p is None else asked.top_p,
        min_p=0.0,
        repetition_penalty=(
            config.repetition_penalty if asked.repetition_penalty is None else asked.repetition_penalty
        ),
        frequency_penalty=asked.frequency_penalty or 0.0,
        seed=chosen_seed(asked.seed),
        session=ours.session,
        workspace=ours.workspace,
        priority=ours.priority or "chat",
        tier=served_tier(ours, config),
        speculative=ours.speculative,
        adapter=adapter,
        client=client_of("", ours),
    )
    return list(several(request, tried))


def info(config: EngineConfig, executor: Executor) -> dict[str, object]:
    """TGI's description of itself."""
    vocabulary = executor.vocabulary
    length = vocabulary.max_length if vocabulary else config.max_length
    return {
        "model_id": config.model,
        "max_total_tokens": length,
        "max_input_tokens": length and length - 1,
        "max_concurrent_requests": config.max_queue,
        "max_best_of": min(MAX_CHOICES, config.max_queue),
        "version": __version__,
    }


@dataclass(slots=True)
class Told:
    """What a stream has told."""

    tokens: int = 0
    characters: int = 0
    texts: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class TgiDialect:
    """Words answers as TGI does."""

    body: GenerateBody
    requests: Sequence[GenerationRequest]
    endpoint: str
    stream: bool
    length_field: str = "parameters.max_new_tokens"
    farewell: bytes = b""
    told: Told = field(default_factory=Told)

    def events(self, _job: int, chunk: Chunk, /) -> Iterator[object]:
        """An event for each token; the last has the whole text."""
        told = self.told
        tokens = list(_tokens(chunk, told.characters))
        told.texts.append(chunk.text)
        told.characters += len(chunk.text)
        bare = replace(chunk, logprobs=(), offsets=(), fates=())
        for token in tokens[:-1]:
            yield self._event(token, bare)
        event = self._event(tokens[-1], chunk)
        if chunk.ending is not None:
            details = {**self._details(chunk), "input_length": chunk.counts.prompt}
            event |= {"generated_text": self._full("".join(told.texts)), "details": details}
        yield event

    def whole(self, jobs: Sequence[Texts], /) -> object:
        """The best answer; for ``POST /``, a list of it."""
        [kept] = best(jobs, len(jobs), 1)
        main = jobs[kept][0]
        answer: dict[str, object] = {"generated_text": self._full(main.text)}
        if self.body.parameters.details:
            details = {**self._details(main), "prefill": [], "tokens": list(_tokens(main, 0))}
            answer["details"] = {**details, "seed": self.requests[kept].seed, "best_of_sequences": None}
        answer["umbrella"] = umbrella_of_all(jobs, kept)
        return [answer] if self.endpoint == "/" else answer

    def _event(self, token: dict[str, object], chunk: Chunk) -> dict[str, object]:
        self.told.tokens += 1
        event = {"index": self.told.tokens, "token": token, "generated_text": None, "details": None}
        return {**event, "umbrella": umbrella_of(chunk)}

    def _full(self, text: str) -> str:
        return self.body.inputs + text if self.body.parameters.return_full_text else text

    def _details(self, chunk: Chunk) -> dict[str, object]:
        stop = chunk.ending.stop if chunk.ending else StopReason.CANCELLED
        return {
            "finish_reason": _FINISH_REASONS.get(stop, "stop_sequence"),
            "generated_tokens": chunk.counts.generated,
            "seed": self.requests[0].seed,
        }


def _tokens(chunk: Chunk, told: int) -> Iterator[dict[str, object]]:
    """TGI's tokens for `chunk`, which `told` characters precede: their texts are the chunk's together.

    A chunk of a server elsewhere, which tells no ids, is one token.
    """
    ended = chunk.ending is not None and chunk.ending.stop is StopReason.END
    tokens = chunk.tokens or (0,)
    # Text may have been held back until now, or still be: it goes with a token near it.
    within = (min(max(offset - told, 0), len(chunk.text)) for offset in chunk.offsets[1 : len(tokens)])
    cuts = [0, *within, len(chunk.text)]
    logprobs = chunk.logprobs or (0.0,) * len(tokens)
    for at, token in enumerate(tokens):
        special = ended and at == len(tokens) - 1 and bool(chunk.tokens)
        yield {
            "id": token,
            "text": chunk.text[cuts[at] : cuts[at + 1]],
            "logprob": logprobs[at],
            "special": special,
        }
