"""What a configuration holds several of: models by name, adapters, servers elsewhere. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class ModelName:
    """A checkpoint to be found: ``bundled:NAME``, a folder or a hub id, and of the latter which revision."""

    name: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterName:
    """A LoRA adapter, by the name that requests choose it by."""

    name: str
    path: str
    """A folder in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")
        if not self.path:
            raise ValueError("path must name a folder")


@dataclass(frozen=True, slots=True)
class UpstreamName:
    """A server that has the target, where the engine is remote. It speaks OpenAI's ``/v1/completions``."""

    url: str
    """Up to but without ``/v1``."""
    model: str = ""
    """What the server calls the target. '': the first that it lists."""
    token_env: str = ""
    """The environment variable that holds a bearer token for it; '' for none."""
    prompts: Literal["ids", "text"] = "ids"
    """How prompts are sent. As token ids, the user's text cannot become special tokens. For servers that take
    only text, whatever in the user's text looks like one of the model's special tokens is broken up."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be an http:// or https:// address")
