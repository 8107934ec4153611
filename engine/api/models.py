"""Which model a request names: the target, or the target with an adapter. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Collection

from engine.config import EngineConfig
from engine.errors import UnknownModel
from engine.executor import Executor


def resolve(name: str | None, config: EngineConfig, adapters: Collection[str]) -> str:
    """The adapter that `name` asks for, '' for the target as it is. Raises UnknownModel."""
    if not name:
        return default_adapter(config, adapters)
    if name in adapters:
        return name
    if name in (config.model, config.shown_names[0]):
        return ""
    known = ", ".join((config.model, *adapters))
    raise UnknownModel(f"model: there is no {name!r} here, only {known}. Name one of them, or none.", "model")


def adapter_or_default(name: str | None, config: EngineConfig, adapters: Collection[str]) -> str:
    """The adapter that `name` asks for where any name is taken, as llama-server does."""
    return name if name in adapters and name else default_adapter(config, adapters)


def default_adapter(config: EngineConfig, adapters: Collection[str]) -> str:
    """The adapter of requests that name no model, or ''."""
    wanted = config.default_adapter
    return wanted if wanted in adapters else ""


def cards(config: EngineConfig, executor: Executor) -> list[dict[str, object]]:
    """OpenAI's model objects, with what vLLM and llama-server add: the target's, then its adapters'."""
    vocabulary = executor.vocabulary
    length = vocabulary.max_length if vocabulary else config.max_length

    def card(name: str, root: str, parent: str | None) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "umbrella-lsp",
            "root": root,
            "parent": parent,
            "max_model_len": length,
            "meta": {"n_ctx_train": length},
        }

    adapters = executor.adapters.items()
    return [
        card(config.model, config.model, None),
        *(card(name, folder, config.model) for name, folder in adapters),
    ]


def card_of(name: str, config: EngineConfig, executor: Executor) -> dict[str, object]:
    """The object of the model that `name` is. Raises UnknownModel."""
    adapter = resolve(name, config, executor.adapters)
    return next(card for card in cards(config, executor) if card["id"] == (adapter or config.model))
