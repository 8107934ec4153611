"""What an answer cost: tokens and milliseconds, from the engine's counts and from when text came. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from engine.client import Answer


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one answer, or of several together. Times are as the client saw them, but for the queue."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    """Of the prompt, those whose keys and values were still cached."""
    generated_tokens: int = 0
    accepted_tokens: int = 0
    """Of those, the ones that had been drafted."""
    passes: int = 0
    """Of the target; 0 where the server does not say."""
    queue_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    later_tokens: int = 0
    """Those that came after the first text."""
    later_ms: float = 0.0
    """What they took."""

    @property
    def tokens_per_s(self) -> float:
        """From the first text on; 0 where all came at once."""
        return 1000 * self.later_tokens / self.later_ms if self.later_ms else 0.0

    @property
    def accepted_per_pass(self) -> float:
        """Drafted tokens that a pass of the target has accepted."""
        return self.accepted_tokens / self.passes if self.passes else 0.0

    @staticmethod
    def together(several: Sequence[Figures]) -> Figures:
        """The sum of one or more. Its first token is the first one's."""
        names = [name for name in Figures.__slots__ if name != "first_token_ms"]
        summed: dict[str, Any] = {name: sum(getattr(each, name) for each in several) for name in names}
        return replace(several[0], **summed)

    def line(self) -> str:
        """For a person."""
        speed = f"{self.tokens_per_s:.1f} tokens/s, " if self.tokens_per_s else ""
        accepted = f", {self.accepted_per_pass:.2f} accepted a pass" if self.passes else ""
        return (
            f"{self.generated_tokens} tokens, {speed}first after {self.first_token_ms / 1000:.2f} s, "
            f"{self.reused_tokens} of {self.prompt_tokens} prompt tokens reused{accepted}"
        )


class Meter:
    """Watches the events of one stream."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._first: tuple[float, int] | None = None
        self._over: float | None = None
        self._counts = Figures()
        self.text = ""
        self.finish_reason: str | None = None

    def note(self, event: Answer) -> None:
        """Take in the next event."""
        self._counts = _counts(event) or self._counts
        self.text += event.text
        self.finish_reason = event.finish_reason or self.finish_reason
        if event.text and self._first is None:
            self._first = self._clock(), self._counts.generated_tokens

    def stop(self) -> None:
        """The stream is over."""
        self._over = self._clock()

    def figures(self) -> Figures:
        """All of it, until it was stopped, or until now."""
        now, counts = self._over or self._clock(), self._counts
        first, at_first = self._first or (now, counts.generated_tokens)
        return Figures(
            prompt_tokens=counts.prompt_tokens,
            reused_tokens=counts.reused_tokens,
            generated_tokens=counts.generated_tokens,
            accepted_tokens=counts.accepted_tokens,
            passes=counts.passes,
            queue_ms=counts.queue_ms,
            first_token_ms=1000 * (first - self._begun),
            total_ms=1000 * (now - self._begun),
            later_tokens=counts.generated_tokens - at_first,
            later_ms=1000 * (now - first),
        )


def _counts(event: Answer) -> Figures | None:
    """What the engine counts; None where the event says nothing of it."""
    if event.umbrella is not None:
        counts, timings = event.umbrella.tokens, event.umbrella.timings
        return Figures(
            prompt_tokens=counts.prompt,
            reused_tokens=counts.reused,
            generated_tokens=counts.generated,
            accepted_tokens=counts.accepted,
            passes=counts.target_passes,
            queue_ms=timings.queue_ms,
        )
    usage = cast("dict[str, Any] | None", event.body.get("usage"))
    if not isinstance(usage, dict):
        return None
    return Figures(
        prompt_tokens=_number(usage, "prompt_tokens"), generated_tokens=_number(usage, "completion_tokens")
    )


def _number(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0
