"""What the worker asks of loaded models, as protocols. Torch-free; knows nothing of queues or HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from engine.draft.base import Outlook
from engine.progress import Progress
from engine.protocol import SegmentFate, StopReason, Tier, TokenCounts, Tops
from engine.request import GenerationRequest
from engine.slots import Reusable

S = TypeVar("S", bound=Reusable)


class Vocabulary(Protocol):
    """The target's tokens. Safe from any thread."""

    @property
    def size(self) -> int:
        """Ids in use, special tokens included."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of context, prompt and answer together."""
        ...

    def encode(self, text: str, *, begin: bool = False, specials: bool = False) -> list[int]:
        """Ids of `text`, behind the token that begins a text or not.

        Only where `specials` says so does text become special tokens.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special ones as they are written. Raises RequestError for an unknown id."""
        ...

    def piece(self, token: int) -> bytes:
        """What `token` writes behind other text, which may be a part of a character."""
        ...


class Branch(Protocol):
    """Verified tokens beside the path that was walked; see `engine.branches.Branch`."""

    @property
    def at(self) -> int: ...
    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def logprobs(self) -> tuple[float, ...]: ...
    @property
    def tops(self) -> Tops: ...
    @property
    def score(self) -> float: ...


class Step(Protocol):
    """What one pass gave; see `engine.decode.Step`."""

    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def logprobs(self) -> tuple[float, ...]: ...
    @property
    def tops(self) -> Tops: ...
    @property
    def counts(self) -> TokenCounts: ...
    @property
    def stop(self) -> StopReason | None: ...
    @property
    def failed(self) -> Sequence[str]: ...
    @property
    def branches(self) -> Sequence[Branch]: ...


class BuiltPrompt(Protocol):
    """A request's prompt as ids; see `engine.prompt.BuiltPrompt`."""

    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def fates(self) -> tuple[SegmentFate, ...]: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def owed(self) -> str: ...
    @property
    def stop_strings(self) -> tuple[str, ...]: ...
    @property
    def adapter(self) -> object:
        """What the target is run with besides its weights, told apart by identity; None for nothing."""
        ...


class Text(Protocol):
    """Tokens in, text and the reason to stop out; see `engine.text.TextStream`."""

    @property
    def offsets(self) -> Sequence[int]: ...
    @property
    def stop_string(self) -> str: ...
    def push(self, token: int) -> StopReason | None: ...
    def allowed(self) -> Sequence[int] | None: ...
    def outlook(self) -> Outlook: ...
    @property
    def rewritten(self) -> int: ...
    def take(self) -> str: ...
    def finish(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Speed:
    """What to expect of loaded models, as `engine.protocol.Health` tells it. 0 where it is not known."""

    pass_ms: float = 0.0
    draft_ms: float = 0.0


class Backend(Protocol[S]):
    """Loaded models. Called on the worker's thread only."""

    @property
    def max_length(self) -> int:
        """Tokens of context, prompt and answer together."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The target's tokens. It outlives the models."""
        ...

    @property
    def slots(self) -> int:
        """Slots of the target's there may be at a time."""
        ...

    @property
    def speed(self) -> Speed:
        """What passes take, as measured while loading."""
        ...

    @property
    def notice(self) -> str:
        """What the user should know of how it goes, such as that less fits than was planned; or ''."""
        ...

    def encode(self, request: GenerationRequest) -> BuiltPrompt:
        """The request's prompt. Raises RequestError if there can be none."""
        ...

    def text(self, request: GenerationRequest, prompt: BuiltPrompt, /) -> Text:
        """A fresh stop rule and text collector for what follows `prompt`."""
        ...

    def load_adapter(self, name: str, path: str) -> None:
        """Read a LoRA adapter for prompts encoded from now on, in the place of one of the same name.

        Raises CheckpointError if it cannot be used, and DeviceError.
        """
        ...

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter; prompts that were encoded keep it."""
        ...

    def new_slot(self, tier: Tier) -> S:
        """Empty caches for requests of `tier`."""
        ...

    def generate(
        self,
        request: GenerationRequest,
        tokens: Sequence[int],
        slot: S,
        text: Text,
        max_tokens: int,
        before_layer: Callable[[int], None],
    ) -> Iterator[Step]:
        """Continue `tokens` with the model of the request's tier; see `engine.decode.Decoder.generate`.

        `before_layer` may run another generation, in another slot, to its end before it returns.
        Steps have branches where `request` wants alternatives. Raises DeviceError where memory or the device
        gives out.
        """
        ...

    def close(self) -> None:
        """Give back what is held outside of the process's own memory. Called once, when no slot is used."""
        ...


Load = Callable[[Progress], Backend[S]]
"""Loads the models. Runs on the worker's thread."""
