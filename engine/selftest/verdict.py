"""What a self-test found, as data: checks that passed or not, and figures. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from engine.memory import gib


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None: it could not be looked at, or there is nothing to look at."""
    message: str
    """What was found, in a sentence, with figures and criteria, or what to do about it."""


@dataclass(frozen=True, slots=True)
class PassTime:
    """What passes of the target took, beside what the cost table says of as many rows."""

    measured_ms: float
    planned_ms: float

    @property
    def ratio(self) -> float:
        """Above 1: slower than planned."""
        return self.measured_ms / self.planned_ms


@dataclass(frozen=True, slots=True)
class Figures:
    """How fast the models are here, prompts being read. None where every text ended with the first pass."""

    load_s: float
    plain_tokens_per_s: float | None
    speculative_tokens_per_s: float | None
    tokens_per_pass: float | None
    drafted: int
    accepted: int
    plain_pass: PassTime | None
    speculative_pass: PassTime | None
    memory_bytes: int | None
    """The most that this process had of the machine's memory; None where the system does not tell."""
    gpu_memory_bytes: int | None
    """Likewise on the GPU; None if none was used."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All of it."""

    model: str
    draft_model: str | None
    config_hash: str
    device: str
    """What the target ran on and in which numbers, such as "cpu float32"; "" if it was not loaded."""
    checks: tuple[Check, ...]
    figures: Figures | None

    @property
    def passed(self) -> bool:
        """Whether nothing failed and the models could be tried at all."""
        return self.figures is not None and all(check.passed is not False for check in self.checks)


MARKS = {True: "pass", False: "FAIL", None: "skip"}
PLAN_HOLDS = (1 / 3, 3.0)
"""Ratios of measured to planned times that a busy machine may explain."""


def laid_out(verdict: Verdict) -> Iterator[str]:
    """The verdict as lines for people: one a check, one a figure, and what it comes to."""
    draft = f" with {verdict.draft_model}" if verdict.draft_model else ", no draft model"
    yield f"model  {verdict.model}{draft}{f', on {verdict.device}' if verdict.device else ''}"
    for check in verdict.checks:
        yield f"{MARKS[check.passed]}   {check.name}: {check.message}"
    if verdict.figures is not None:
        yield from _figure_lines(verdict.figures)
    yield "The self-test passed." if verdict.passed else "The self-test failed."


def as_object(verdict: Verdict) -> dict[str, object]:
    """The verdict as ``--json`` prints it."""
    return {"passed": verdict.passed, **asdict(verdict)}


def _figure_lines(figures: Figures) -> Iterator[str]:
    yield f"       loaded in {figures.load_s:.1f} s"
    plain, fast = figures.plain_tokens_per_s, figures.speculative_tokens_per_s
    if plain and fast:
        yield f"       tokens a second: {plain:.1f} plain, {fast:.1f} speculative ({fast / plain:.2f} times)"
    share = f" ({figures.accepted / figures.drafted:.0%})" if figures.drafted else ""
    yield (
        f"       tokens a pass: {figures.tokens_per_pass or 1:.2f}; accepted {figures.accepted} of "
        f"{figures.drafted} drafted{share}"
    )
    times = {"a pass of one token": figures.plain_pass, "a pass with its drafts": figures.speculative_pass}
    for what, time in times.items():
        if time is not None:
            yield f"       {what}: {_against_plan(time)}"
    memory = [f"{gib(size)} {what}" for size, what in _memory(figures) if size is not None]
    yield f"       memory: {', '.join(memory) or 'not known'}"


def _memory(figures: Figures) -> tuple[tuple[int | None, str], ...]:
    return (figures.memory_bytes, "of the machine"), (figures.gpu_memory_bytes, "of the GPU")


def _against_plan(time: PassTime) -> str:
    low, high = PLAN_HOLDS
    advice = (
        ""
        if low <= time.ratio <= high
        else "; on an idle machine, remove umbrella-lsp/costs in your cache folder to have it measured anew"
    )
    return f"{time.measured_ms:.1f} ms, planned {time.planned_ms:.1f} ms ({time.ratio:.2f} times{advice})"
