"""vLLM's ``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.errors import CheckpointError, NoAdapter, RequestError, UmbrellaError, UnknownModel
from engine.executor import Executor

MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class LoadAdapterBody:
    """The body of ``POST /v1/load_lora_adapter``."""

    lora_name: str
    """What requests will say as their `model`."""
    lora_path: str
    """A folder on the engine's machine."""
    load_inplace: bool = False
    """Whether an adapter of that name is replaced."""

    def __post_init__(self) -> None:
        _require_name(self.lora_name)
        if not Path(self.folder).is_absolute() or "\0" in self.lora_path:
            raise ValueError("lora_path must be the whole path of a folder on the engine's machine")

    @property
    def folder(self) -> str:
        """`lora_path`, in the user's home where it begins with ``~``."""
        return os.path.expanduser(self.lora_path)  # noqa: PTH111 - Path's own raises for an unknown user


@dataclass(frozen=True, slots=True)
class UnloadAdapterBody:
    """The body of ``POST /v1/unload_lora_adapter``. vLLM's `lora_int_id` is not needed."""

    lora_name: str

    def __post_init__(self) -> None:
        _require_name(self.lora_name)


def _require_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"lora_name must be 1 to {MAX_NAME} printable characters")


async def load(body: LoadAdapterBody, config: EngineConfig, executor: Executor) -> str:
    """Load what `body` names, and say so in vLLM's words. Raises UmbrellaError."""
    name = body.lora_name
    if name in (config.model, *config.shown_names):
        raise RequestError(f"lora_name: {name!r} is a model's name. Choose another.", "lora_name")
    if name in executor.adapters and not body.load_inplace:
        raise RequestError(
            f"lora_name: the adapter {name!r} is loaded already. Unload it first, or say load_inplace.",
            "lora_name",
        )
    try:
        await _done(lambda then: executor.load_adapter(name, body.folder, then))
    except NoAdapter as error:
        raise UnknownModel(f"lora_path: {error}.", "lora_path") from error
    except CheckpointError as error:
        raise RequestError(f"lora_path: {error}.", "lora_path") from error
    return f"Success: LoRA adapter '{name}' added successfully."


async def unload(body: UnloadAdapterBody, executor: Executor) -> str:
    """Drop what `body` names, and say so in vLLM's words. Raises UmbrellaError."""
    await _done(lambda then: executor.drop_adapter(body.lora_name, then))
    return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


async def _done(begin: Callable[[Callable[[UmbrellaError | None], None]], None]) -> None:
    """Wait until what `begin` starts calls back, from any thread; raise the error that it says."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    problems: list[UmbrellaError] = []

    def then(error: UmbrellaError | None) -> None:
        if error is not None:
            problems.append(error)
        with suppress(RuntimeError):  # The loop is closed: the process is ending.
            loop.call_soon_threadsafe(done.set)

    begin(then)
    await done.wait()
    if problems:
        raise problems[0]
