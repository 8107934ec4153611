"""Texts beside the main one: made of the siblings of its path that the target has verified already.

An alternative leaves the main text where a sibling did, and often its stop rule ends it within what is
verified: then it has cost no pass. Knows nothing of queues, and of a model only what `backend` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.backend import Branch, Step, Text
from engine.protocol import StopReason, Tops


@dataclass(frozen=True, slots=True)
class Said:
    """A part of a text, and the tokens that came with it."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    offsets: tuple[int, ...]
    """Where each begins in the whole text."""
    tops: Tops


@dataclass(slots=True)
class Answer:
    """A text on its way: the main one, of `index` 0, or an alternative."""

    text: Text
    index: int = 0
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list[tuple[tuple[int, float], ...]])
    """As many as there are tokens, or none."""
    said: str = ""
    """What of the text is certain so far."""
    stop: StopReason | None = None
    branches: list[tuple[int, Branch]] = field(default_factory=list[tuple[int, Branch]])
    """Siblings of its path, each with the number of tokens it leaves the text after."""
    shared: int = 0
    """Leading tokens that are the main text's."""
    _taken: tuple[int, int] = field(default=(0, 0), init=False)

    @property
    def size(self) -> int:
        """Tokens so far, without those that only wrote the word at the cursor again."""
        return len(self.tokens) - self.text.rewritten

    @property
    def own_size(self) -> int:
        """Of those, the ones that are not the main text's."""
        return len(self.tokens) - max(self.shared, self.text.rewritten)

    def extend(self, step: Step, begun_at: int) -> None:
        """Take in a step of a run that began when there were `begun_at` tokens."""
        self.tokens += step.tokens
        self.logprobs += step.logprobs
        self.tops += step.tops
        self.branches += ((begun_at + branch.at, branch) for branch in step.branches)
        self.said += self.text.take()

    def end(self, stop: StopReason) -> None:
        """No more tokens come."""
        self.stop = stop
        self.said += self.text.finish()

    def take(self) -> Said:
        """What was said since the last call."""
        text, at = self._taken
        self._taken = len(self.said), len(self.tokens)
        return Said(
            self.said[text:],
            tuple(self.tokens[at:]),
            tuple(self.logprobs[at:]),
            tuple(self.text.offsets[at : len(self.tokens)]),
            tuple(self.tops[at:]),
        )

    @property
    def is_open(self) -> bool:
        """Whether more would follow: it goes on, or was cut short."""
        return self.stop in (None, StopReason.LENGTH, StopReason.DEADLINE)

    def cannot_become(self, other: Answer) -> bool:
        """Whether it says something else than `other`, however those of the two that go on will."""
        if self.is_open and other.said.startswith(self.said):
            return False
        if other.is_open and self.said.startswith(other.said):
            return False
        return self.said != other.said


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a text may be."""

    max_tokens: int
    room: int
    """Tokens that the context has room for behind the prompt, rewritten ones included."""

    def reached(self, answer: Answer) -> bool:
        """Whether nothing may follow."""
        return answer.size >= self.max_tokens or len(answer.tokens) >= self.room


def alternatives(main: Answer, wanted: int, new_text: Callable[[], Text], limits: Limits) -> list[Answer]:
    """At most `wanted` texts that differ from `main`, which is over, and from one another.

    They are the likeliest branches of `main`, numbered from 1: first those that are over already, then
    those that have to be continued, the likelier ones first of each. None of them is empty.
    """
    found: list[Answer] = []
    for at, branch in sorted(main.branches, key=lambda pair: -pair[1].score):
        if len(found) == wanted:
            break
        answer = _along(main, at, branch, new_text(), limits)
        if answer.said and all(answer.cannot_become(other) for other in (main, *found)):
            found.append(answer)
    found.sort(key=lambda answer: answer.stop is None)
    for index, answer in enumerate(found, 1):
        answer.index = index
    return found


def _along(main: Answer, at: int, branch: Branch, text: Text, limits: Limits) -> Answer:
    """What is known of the text that leaves `main` by `branch`."""
    answer = Answer(text, shared=at)
    tokens = [*main.tokens[:at], *branch.tokens]
    logprobs = [*main.logprobs[:at], *branch.logprobs]
    tops = [*main.tops[:at], *branch.tops]
    for index, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        allowed = text.allowed()
        if allowed is not None and token not in allowed:
            break  # The target went on as it likes, where the word at the cursor has to be written again.
        stop = text.push(token)
        answer.tokens.append(token)
        answer.logprobs.append(logprob)
        answer.tops += tops[index : index + 1]
        if stop is None and limits.reached(answer):
            stop = StopReason.LENGTH
        if stop is not None:
            answer.end(stop)
            return answer
    answer.said = text.take()
    return answer
