"""What the scripted backend takes and gives: prompts, slots, steps and their branches, a byte a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.errors import RequestError
from engine.protocol import SegmentFate, StopReason, TokenCounts, Tops

END = 0
END_WRITTEN = "<end>"


@dataclass(frozen=True, slots=True)
class FakeBranch:
    at: int
    tokens: tuple[int, ...]
    score: float
    tops: Tops = ()

    @property
    def logprobs(self) -> tuple[float, ...]:
        return (self.score / len(self.tokens),) * len(self.tokens)

    @staticmethod
    def of(at: int, text: str, score: float) -> FakeBranch:
        return FakeBranch(at, tuple(map(ord, text)), score)


@dataclass(frozen=True, slots=True)
class FakeStep:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    counts: TokenCounts
    stop: StopReason | None = None
    failed: tuple[str, ...] = ()
    branches: tuple[FakeBranch, ...] = ()
    tops: Tops = ()


@dataclass(frozen=True, slots=True)
class FakePrompt:
    tokens: tuple[int, ...]
    fates: tuple[SegmentFate, ...] = ()
    truncated: bool = False
    owed: str = ""
    stop_strings: tuple[str, ...] = ()
    adapter: object = None


@dataclass(frozen=True, slots=True, eq=False)
class FakeAdapter:
    """Has the target say something else: the adapter's path."""

    answer: str


@dataclass(slots=True, eq=False)
class FakeSlot:
    tokens: list[int] = field(default_factory=list[int])
    adapter: object = None

    def use(self, adapter: object) -> None:
        if adapter is not self.adapter:
            self.tokens, self.adapter = [], adapter

    def reusable(self, tokens: Sequence[int], adapter: object = None) -> int:
        if adapter is not self.adapter:
            return 0
        pairs = zip(self.tokens, tokens, strict=False)
        return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(self.tokens), len(tokens)))

    def adopt(self, other: FakeSlot, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens[: other.reusable(tokens, self.adapter)])


@dataclass(frozen=True, slots=True)
class FakeVocabulary:
    """A byte of UTF-8 a token; `END` both begins and ends a text."""

    size: int = 256
    max_length: int = 1 << 16

    def encode(self, text: str, *, begin: bool = False, specials: bool = False) -> list[int]:
        if specials:
            text = text.replace(END_WRITTEN, chr(END))
        return [*([END] if begin else []), *text.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        if not all(0 <= token < self.size for token in tokens):
            raise RequestError("token ids must be below 256", "tokens")
        return bytes(tokens).decode(errors="replace").replace(chr(END), END_WRITTEN)

    def piece(self, token: int) -> bytes:
        return END_WRITTEN.encode() if token == END else bytes([token])
