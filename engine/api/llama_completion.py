"""llama-server's ``POST /completion``: prompts as they are, whoever rendered them.

That includes special tokens: here, and in ``/tokenize``, text that is written like one becomes it, because
that is how a rendered template arrives. A user's text belongs into ``/infill`` or a chat, where it never is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import cast

from engine.api.choices import require_room
from engine.api.llama import LlamaOptions, generation
from engine.config import EngineConfig
from engine.errors import ContextExceeded, RequestError
from engine.executor import Vocabulary
from engine.request import GenerationRequest, TokenPrompt

MAX_CHARACTERS = 128
"""A token, about: longer text is refused unseen, because encoding it would take long, for nothing."""


@dataclass(frozen=True, slots=True)
class PromptBody(LlamaOptions):
    """The body of ``POST /completion``. An `n_predict` of -1 takes all that the context has left."""

    prompt: object = None
    """Text, token ids, a list of both, or a list of such prompts."""

    def __post_init__(self) -> None:
        LlamaOptions.__post_init__(self)  # `super()` does not work in a class that was given slots.
        if self.umbrella.segments:
            raise ValueError("umbrella.segments are for /infill: send them there, or a prompt alone")


def to_requests(
    body: PromptBody, vocabulary: Vocabulary, config: EngineConfig, adapters: Collection[str] = ()
) -> list[GenerationRequest]:
    """The generations that `body` asks for, one a prompt. Encodes them. Raises RequestError."""
    wanted = config.generation_length if body.n_predict is None else body.n_predict
    requests: list[GenerationRequest] = []
    prompts = _prompts(body)
    require_room(len(prompts), "prompt", body.umbrella, config)
    for parts in prompts:
        characters = sum(len(part) for part in parts if isinstance(part, str))
        is_sane = characters <= MAX_CHARACTERS * vocabulary.max_length
        ids = ids_of(parts, vocabulary) if is_sane else []
        left = vocabulary.max_length - len(ids)
        if not is_sane or left < 1:
            raise ContextExceeded(
                f"prompt: it is too long for a context of {vocabulary.max_length} tokens. Shorten it.",
                "prompt",
            )
        length = left if wanted == -1 else min(wanted, left)
        requests.append(generation(body, TokenPrompt(tuple(ids)), length, config, adapters))
    # All of them together have the share of one client.
    return [replace(request, client=requests[0].client) for request in requests]


def ids_of(
    parts: Sequence[str | int], vocabulary: Vocabulary, *, begin: bool = True, specials: bool = True
) -> list[int]:
    """Ids of text and ids that follow one another; before text that comes first, the begin token, once."""
    ids: list[int] = []
    for part in parts:
        ids += vocabulary.encode(part, specials=specials) if isinstance(part, str) else [part]
    if begin and isinstance(parts[0], str):
        beginning = vocabulary.encode("", begin=True)
        return ids if ids[: len(beginning)] == beginning else beginning + ids
    return ids


def _prompts(body: PromptBody) -> list[list[str | int]]:
    """The prompts of `body`, of one part or more each. Raises RequestError."""
    prompt = body.prompt
    items = cast("list[object]", prompt) if isinstance(prompt, list) else [prompt]
    if any(isinstance(item, int) for item in items):
        return [_parts(items)]
    if not items:
        raise _refused()
    return [_parts(cast("list[object]", item) if isinstance(item, list) else [item]) for item in items]


def _parts(items: Sequence[object]) -> list[str | int]:
    parts = [item for item in items if isinstance(item, str | int) and not isinstance(item, bool)]
    if not parts or len(parts) < len(items):
        raise _refused()
    return parts


def _refused() -> RequestError:
    return RequestError("prompt: send text, token ids, a list of both, or a list of such prompts.", "prompt")
