"""What a configuration holds several of: models by name, adapters, servers elsewhere. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from engine.quantization import Rounded
from engine.schema import require_between


@dataclass(frozen=True, slots=True)
class ModelName:
    """A checkpoint to be found: ``bundled:NAME``, a folder or a hub id, and of the latter which revision."""

    name: str
    revision: str | None = None
    quantize: Rounded | None = None
    """What its linear layers are to be rounded to when it is loaded."""


def numbered(kind: str, count: int) -> tuple[str, ...]:
    """What to call so many of a kind: ``("draft",)``, or ``("draft 1", "draft 2")``."""
    return (kind,) if count == 1 else tuple(f"{kind} {number}" for number in range(1, count + 1))


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
    max_requests: int = 32
    """Generations that it is asked for at a time; further ones wait here, the most urgent first."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("url must be an http:// or https:// address")
        if "@" in parts.netloc:
            raise ValueError("url must hold no user and no password; token_env names what holds a token")
        if parts.path.rstrip("/").endswith("/v1") or parts.query or parts.fragment:
            raise ValueError("url must end before /v1")
        require_between("max_requests", self.max_requests, 1, 10_000)
