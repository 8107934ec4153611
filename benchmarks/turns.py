"""Several ways to continue the same prompts, taking turns, and what the times say about them.

Every prompt is continued by every mode before the next one is, and another mode begins each time, so that
whatever disturbs the machine disturbs all of them alike. Ratios are of modes within one round.
Knows nothing of how any mode works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Protocol, TypeVar

from benchmarks.report import quartiles

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt, continued."""

    tokens: tuple[int, ...]
    first: int
    """How many of them the first pass gave, which is the one that reads the prompt."""
    first_s: float
    """What that took."""
    rest_s: float
    """What all further passes took."""
    passes: int
    """Of the target, the first one included."""
    nodes: int | None = None
    """Guesses verified; None, as what follows, if nobody counted."""
    draft_s: float | None = None
    """Of `rest_s`: in passes of the draft model."""
    verify_s: float | None = None
    """Of `rest_s`: in passes of the target."""


class Mode(Protocol):
    """A way to continue prompts."""

    def run(self, prompt: Sequence[int]) -> Run:
        """Continue `prompt`, with nothing known of it from before."""
        ...


Round = Mapping[str, Sequence[Run]]
"""By mode: a run a prompt."""


def take_turns(
    modes: Mapping[str, Mode],
    prompts: Sequence[Sequence[int]],
    rounds: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Round]:
    """Continue every prompt with every mode, `rounds` times. `progress` is called after each run."""
    names = list(modes)
    done: list[Round] = []
    for number in range(rounds):
        found: dict[str, list[Run]] = {name: [] for name in names}
        for index, prompt in enumerate(prompts):
            for name in rotated(names, number * len(prompts) + index):
                found[name].append(modes[name].run(prompt))
                progress()
        done.append(found)
    return done


def rotated(items: Sequence[T], by: int) -> list[T]:
    """`items`, beginning with another one for every `by`."""
    at = by % len(items)
    return [*items[at:], *items[:at]]


def decoding(runs: Sequence[Run]) -> float | None:
    """Tokens a second once prompts are read; None if no prompt needed a second pass."""
    seconds = sum(run.rest_s for run in runs)
    return sum(len(run.tokens) - run.first for run in runs) / seconds if seconds else None


def with_prefill(runs: Sequence[Run]) -> float | None:
    """Tokens a second, the reading of prompts included."""
    seconds = sum(run.first_s + run.rest_s for run in runs)
    return sum(len(run.tokens) for run in runs) / seconds if seconds else None


Figure = Callable[[Sequence[Run]], float | None]


def ratio(rounds: Sequence[Round], mode: str, over: str, rate: Figure = decoding) -> dict[str, float] | None:
    """Spread over `rounds` of how many times the rate of `over` `mode` had; None if one is not there."""
    found: list[float] = []
    for each in rounds:
        above, below = rate(each.get(mode, ())), rate(each.get(over, ()))
        if above is not None and below:
            found.append(above / below)
    return quartiles(found) if found else None


def merged(rounds: Sequence[Round], mode: str) -> list[Run]:
    """All runs of `mode`."""
    return [run for each in rounds for run in each[mode]]


def fastest(rounds: Sequence[Round], modes: Sequence[str]) -> str:
    """The mode that was, over all `rounds`, the fastest one."""
    return max(modes, key=lambda mode: decoding(merged(rounds, mode)) or 0.0)


def tokens_per_pass(runs: Sequence[Run]) -> float | None:
    """Tokens that a pass of the target gave, whichever it was; None if there are no runs."""
    passes = sum(run.passes for run in runs)
    return sum(len(run.tokens) for run in runs) / passes if passes else None


def nodes_per_pass(runs: Sequence[Run]) -> float | None:
    """Guesses that a pass of the target verified; its root is none. None if nobody counted."""
    nodes = [run.nodes for run in runs if run.nodes is not None]
    return sum(nodes) / sum(run.passes for run in runs) if nodes else None


def summary(rounds: Sequence[Round], mode: str) -> dict[str, object]:
    """The figures of one mode, each spread over the prompts."""
    return {
        "tokens_per_s": over_prompts(rounds, mode, decoding, 1),
        "tokens_per_s_with_prefill": over_prompts(rounds, mode, with_prefill, 1),
        "first_pass_ms": over_prompts(rounds, mode, lambda runs: 1e3 * mean(run.first_s for run in runs), 1),
        "tokens_per_pass": over_prompts(rounds, mode, tokens_per_pass),
        "nodes_per_pass": over_prompts(rounds, mode, nodes_per_pass),
        "ms_per_pass": {
            "draft": over_prompts(rounds, mode, per_later_pass(lambda run: run.draft_s)),
            "verify": over_prompts(rounds, mode, per_later_pass(lambda run: run.verify_s)),
            "other": over_prompts(rounds, mode, per_later_pass(_other_s)),
        },
    }


def over_prompts(
    rounds: Sequence[Round], mode: str, figure: Figure, digits: int = 3
) -> dict[str, float] | None:
    """Spread of a figure of `mode`, of one prompt's runs in all `rounds` each; None if there is none."""
    by_prompt = zip(*(each[mode] for each in rounds), strict=True)
    values = [value for runs in by_prompt if (value := figure(runs)) is not None]
    return quartiles(values, digits) if values else None


def per_later_pass(seconds: Callable[[Run], float | None]) -> Figure:
    """Milliseconds that a pass after the first one took of `seconds`."""

    def figure(runs: Sequence[Run]) -> float | None:
        found = [spent for run in runs if (spent := seconds(run)) is not None]
        passes = sum(run.passes - 1 for run in runs)
        return 1e3 * sum(found) / passes if found and passes else None

    return figure


def _other_s(run: Run) -> float | None:
    if run.draft_s is None or run.verify_s is None:
        return None
    return run.rest_s - run.draft_s - run.verify_s
