"""llama-server's own routes, to the extent that its editors' plugins and scripts use them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine import __version__
from engine.api.body import read_body
from engine.api.infill import InfillBody
from engine.api.infill import to_request as infill_request
from engine.api.llama import LlamaDialect, LlamaOptions, generation, settings_of
from engine.api.llama_completion import PromptBody, ids_of, to_requests
from engine.api.respond import GenerationResponse
from engine.config import USUAL_SLOTS, EngineConfig
from engine.errors import EngineUnavailable, RequestError
from engine.executor import Executor, Vocabulary
from engine.metrics import Metrics
from engine.request import GenerationRequest, TextPrompt

MAX_CONTENT = 1 << 20
"""Characters, which take seconds to encode. A client may send a longer text in parts."""


@dataclass(frozen=True, slots=True)
class TokenizeBody:
    """The body of ``POST /tokenize``."""

    content: str
    add_special: bool = False
    """Whether the token that begins a text goes before it."""
    parse_special: bool = True
    """Whether text that is written like a special token becomes it."""
    with_pieces: bool = False

    def __post_init__(self) -> None:
        if len(self.content) > MAX_CONTENT:
            raise ValueError(f"content must have at most {MAX_CONTENT} characters; send it in parts")


@dataclass(frozen=True, slots=True)
class DetokenizeBody:
    """The body of ``POST /detokenize``."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LlamaRoutes:
    """One method a route."""

    config: EngineConfig
    executor: Executor
    metrics: Metrics

    def table(self) -> list[Route]:
        """Which path goes where."""
        return [
            Route("/infill", self.post_infill, methods=["POST"]),
            Route("/completion", self.post_completion, methods=["POST"]),
            Route("/completions", self.post_completion, methods=["POST"]),
            Route("/tokenize", self.post_tokenize, methods=["POST"]),
            Route("/detokenize", self.post_detokenize, methods=["POST"]),
            Route("/props", self.get_props),
            Route("/slots", self.get_slots),
        ]

    async def post_infill(self, request: Request) -> GenerationResponse:
        """``POST /infill``."""
        body = await read_body(request, InfillBody)
        asked = infill_request(body, self.config, self.executor.adapters)
        return self._response("/infill", body, [asked])

    async def post_completion(self, request: Request) -> GenerationResponse:
        """``POST /completion``."""
        body = await read_body(request, PromptBody)
        adapters = self.executor.adapters
        # On a thread: others are served while a long text is encoded.
        asked = await asyncio.to_thread(to_requests, body, self._vocabulary, self.config, adapters)
        return self._response("/completion", body, asked)

    async def post_tokenize(self, request: Request) -> Response:
        """``POST /tokenize``: the ids of a text, perhaps with the text of each."""
        body, vocabulary = await read_body(request, TokenizeBody), self._vocabulary
        answer = await asyncio.to_thread(_tokenized, body, vocabulary)
        self.metrics.request_ended("/tokenize", "ok")
        return Response(answer, media_type="application/json")

    async def post_detokenize(self, request: Request) -> Response:
        """``POST /detokenize``: the text of ids, special tokens as they are written."""
        body, vocabulary = await read_body(request, DetokenizeBody), self._vocabulary
        try:
            text = await asyncio.to_thread(vocabulary.decode, body.tokens)
        except RequestError as error:
            raise RequestError(f"tokens: {error}.", "tokens") from error
        self.metrics.request_ended("/detokenize", "ok")
        return JSONResponse({"content": text})

    async def get_props(self, _request: Request) -> Response:
        """``GET /props``: what requests that leave it open get, and how long prompts may be."""
        vocabulary = self._vocabulary
        beginning = vocabulary.encode("", begin=True)
        usual = generation(LlamaOptions(seed=0), TextPrompt(""), self.config.generation_length, self.config)
        return JSONResponse(
            {
                "default_generation_settings": {
                    **self._slot(0),
                    "params": settings_of(usual, vocabulary.max_length),
                },
                "total_slots": self._slots,
                "model_alias": self.config.shown_names[0],
                "model_path": self.config.model,
                "modalities": {"vision": False, "audio": False},
                "chat_template": self.config.chat_template or "",
                "bos_token": vocabulary.decode(beginning),
                "build_info": f"umbrella-lsp {__version__}",
                "is_sleeping": self.executor.state == "unloaded",
            }
        )

    async def get_slots(self, _request: Request) -> Response:
        """``GET /slots``: how many there are, and whether one is at work. Never what is in them."""
        return JSONResponse([self._slot(number) for number in range(self._slots)])

    @property
    def _slots(self) -> int:
        return self.config.slots or USUAL_SLOTS

    def _slot(self, number: int) -> dict[str, object]:
        # One generation runs at a time, in whichever slot: the first stands for it.
        return {
            "id": number,
            "id_task": -1,
            "n_ctx": self._vocabulary.max_length,
            "speculative": self.config.engine != "ar",
            "is_processing": number == 0 and self.executor.busy,
        }

    @property
    def _vocabulary(self) -> Vocabulary:
        """Raises EngineUnavailable while there is none."""
        vocabulary = self.executor.vocabulary
        if vocabulary is None:
            raise EngineUnavailable(self.executor.message or "Loading model. Try again in a moment.")
        return vocabulary

    def _response(
        self, endpoint: str, body: LlamaOptions, asked: list[GenerationRequest]
    ) -> GenerationResponse:
        vocabulary = self.executor.vocabulary
        n_ctx = vocabulary.max_length if vocabulary else self.config.max_length or 0
        settings = settings_of(asked[0], n_ctx)
        dialect = LlamaDialect(endpoint, self.config.model, body, settings, vocabulary)
        return GenerationResponse(self.executor, self.metrics, asked, dialect)


def _tokenized(body: TokenizeBody, vocabulary: Vocabulary) -> bytes:
    tokens = ids_of([body.content], vocabulary, begin=body.add_special, specials=body.parse_special)
    if not body.with_pieces:
        return msgspec.json.encode({"tokens": tokens})
    known = {token: {"id": token, "piece": _shown(vocabulary.piece(token))} for token in set(tokens)}
    return msgspec.json.encode({"tokens": [known[token] for token in tokens]})


def _shown(piece: bytes) -> object:
    """Text where it is some, else its bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
