"""What crosses the wire between a client and the engine, beside llama-server's and OpenAI's own fields.

Everything of ours travels under one ``umbrella`` object: a `UmbrellaRequest` in the request body, an
`UmbrellaReply` in every response and in every streamed event. This module is its only definition.
It owns names, types and ranges, and knows nothing of models, sockets or editors; it must stay
importable without torch. Readers ignore fields they do not know, so that either side may be newer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

PROTOCOL_VERSION = 1
UNLOAD_WAIT_S = 10.0
"""How long the answer to ``POST /unload`` waits for the memory to be free."""
NO_SERVER = "No server answers"
"""How ``/health``'s message begins while an engine that asks others finds none, which may last."""
MAX_STOPS = 16
MAX_SEGMENTS = 256
"""More would not fit into a prompt, and each is tried."""

SegmentKind = Literal["prefix", "suffix", "definition", "snippet", "edit"]
Stability = Literal["stable", "volatile"]
Priority = Literal["typing", "chat", "prefetch"]
Tier = Literal["target", "draft"]
Fate = Literal["kept", "trimmed", "dropped"]
Tops = tuple[tuple[tuple[int, float], ...], ...]
"""For each of some tokens the most probable ids at its position, the most probable first, with their natural
log-probabilities; () where nobody asked for them."""


class StopReason(StrEnum):
    """Why a generation ended."""

    END = "end"
    """The target emitted an end token."""
    LENGTH = "length"
    """`max_tokens` were generated, or the context is full."""
    STRING = "string"
    """A stop string appeared; it is not part of the text."""
    LINES = "lines"
    """`StopSpec.max_lines` lines are complete."""
    INDENT = "indent"
    """A line began left of `StopSpec.min_indent`; it is not part of the text."""
    DEADLINE = "deadline"
    """`t_max_predict_ms` passed."""
    CANCELLED = "cancelled"
    """The client went away."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text the engine may put into the prompt.

    `rank` orders what is kept when the token budget is short (higher first); it never reorders the
    prompt. `stability` says whether the text is likely to be the same at the next keystroke: stable
    segments go first, so that the KV cache of what precedes the cursor stays valid.
    """

    kind: SegmentKind
    text: str
    path: str = ""
    language: str = ""
    rank: float = 0.0
    stability: Stability = "stable"


@dataclass(frozen=True, slots=True)
class StopSpec:
    """Where a completion ends, checked by the engine so that no pass is spent past it."""

    strings: tuple[str, ...] = ()
    max_lines: int | None = None
    """Complete lines to generate at most; the line that holds the cursor is the first."""
    min_indent: int | None = None
    """Columns: stop before a later non-blank line that is indented by less (a tab is one column)."""

    def __post_init__(self) -> None:
        if self.max_lines is not None and self.max_lines < 1:
            raise ValueError("max_lines must be at least 1")
        if self.min_indent is not None and self.min_indent < 0:
            raise ValueError("min_indent must not be negative")
        if any(not string for string in self.strings):
            raise ValueError("strings must not hold an empty string")
        if len(self.strings) > MAX_STOPS:
            raise ValueError(f"strings must be at most {MAX_STOPS}")


@dataclass(frozen=True, slots=True)
class UmbrellaRequest:
    """Our part of a request. Every field has a default: a plain llama-server client sends none."""

    version: int = PROTOCOL_VERSION
    segments: tuple[Segment, ...] = ()
    path: str = ""
    language: str = ""
    session: str = ""
    """An editor document; KV slots are kept by it."""
    workspace: str = ""
    """The key its text was pushed under; see `WorkspacePush`."""
    priority: Priority | None = None
    """How urgent it is: between two layers, what is more urgent goes first. None is ``typing`` where code is
    filled in, and ``chat`` elsewhere."""
    tier: Tier = "target"
    """Who writes the text. ``draft`` is the draft model alone, for a first answer where the target is slow:
    it goes before what the target does for the same priority, in the middle of a pass too. Only ``target``
    promises what the target says. Refused where there is no draft model."""
    n: int = 1
    """Texts wanted: the main one and its best alternatives, fewer where no more are known."""
    stop: StopSpec = field(default_factory=StopSpec)
    speculative: bool = True
    """False decodes plainly, one token a pass, for comparison."""

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError("version must be at least 1")
        if not 1 <= self.n <= 16:
            raise ValueError("n must be between 1 and 16")
        if len(self.segments) > MAX_SEGMENTS:
            raise ValueError(f"segments must be at most {MAX_SEGMENTS}")


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds, cumulative since the request was accepted."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    """Until the first pass, which also verifies the first draft tree, has been accepted."""
    decode_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens, cumulative since the request was accepted, of the main text and its alternatives together."""

    prompt: int = 0
    reused: int = 0
    """Prompt tokens whose keys and values were still cached."""
    generated: int = 0
    """Those that two texts begin with are counted once."""
    drafted: int = 0
    """Tree nodes verified by the target, roots not counted."""
    accepted: int = 0
    """Of those, the ones that were emitted."""
    target_passes: int = 0
    """None for a text of the draft tier."""


@dataclass(frozen=True, slots=True)
class SegmentFate:
    """What became of request segment number `index`."""

    index: int
    fate: Fate
    tokens: int


@dataclass(frozen=True, slots=True)
class Alternative:
    """A text beside the main one; each has the whole request's limits to itself."""

    index: int
    """From 1 on."""
    content: str
    stop: StopReason
    logprobs: tuple[float, ...] = ()
    text_offsets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UmbrellaReply:
    """Our part of a response or of a streamed event."""

    timings: Timings
    tokens: TokenCounts
    version: int = PROTOCOL_VERSION
    index: int = 0
    """Which text this event belongs to: 0 is the main one. They follow one another."""
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each token of this event, under the model of the `tier`."""
    text_offsets: tuple[int, ...] = ()
    """Where each of these tokens begins in the whole text, some of which may still be held back."""
    stop: StopReason | None = None
    """Set in a text's last event only."""
    segments: tuple[SegmentFate, ...] = ()
    """Set in a request's first event only."""
    alternatives: tuple[Alternative, ...] = ()
    """Set in a whole response only; a stream has events of their own, which follow the main text's last."""
    tier: Tier = "target"
    """Who wrote it."""


MAX_NAME_CHARS = 1024


def _require_name(field: str, name: str) -> None:
    """Names are kept for as long as what they name, so they are bounded."""
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise ValueError(f"{field} must have 1 to {MAX_NAME_CHARS} characters")


@dataclass(frozen=True, slots=True)
class WorkspaceDocument:
    """A document's text, to draft from."""

    path: str
    """Tells it from the workspace's other documents: any name that stays the same."""
    text: str

    def __post_init__(self) -> None:
        _require_name("path", self.path)


@dataclass(frozen=True, slots=True)
class WorkspacePush:
    """The body of ``POST /workspace``. What is removed goes before what is sent comes."""

    workspace: str
    """The workspace's key: any name, the one that requests carry."""
    documents: tuple[WorkspaceDocument, ...] = ()
    """New documents, and new text of those that are known."""
    removed: tuple[str, ...] = ()
    """Paths of documents to forget."""
    clear: bool = False
    """Whether to forget all documents first."""

    def __post_init__(self) -> None:
        _require_name("workspace", self.workspace)
        for path in self.removed:
            _require_name("removed", path)


HealthState = Literal["starting", "loading", "ready", "unloaded", "draining", "failed"]
"""``unloaded``: the models' memory has been given back; the next request loads them again."""


@dataclass(frozen=True, slots=True)
class Health:
    """The body of ``GET /health``."""

    state: HealthState
    progress: float
    """0 to 1: how much of the checkpoints is loaded."""
    package: str
    protocol: int
    config_hash: str
    pid: int
    busy: bool = False
    """Whether a generation runs or waits."""
    message: str = ""
    """What is being done while loading, why there are no models once that has failed, and while ready what
    the user should know of them; '' where there is nothing to say."""
    pass_ms: float = 0.0
    """What a pass of the target over one token takes, measured when it was loaded; 0 until then. What a
    request's passes took is in the timings of its reply."""
    draft_ms: float = 0.0
    """What a short line of the draft tier takes, about; 0 until models are loaded, or if there is none."""
    model: str = ""
    """The target's name, as it is configured; of a path, its last two parts."""
    draft_model: str = ""
    """The draft model's, '' if there is none."""
    languages: tuple[str, ...] = ()
    """Editors' ids of the languages that the models were made for; () is any."""
