"""An author who knows the text to come, and errs as often as wanted. Pure but for what it was shown last.

A mistake belongs to its place in the text, as a model's does: whoever asks again from a little further on,
or after having taken back a typing error, is told the same. Of each line, whether asked for from its start,
from the cursor or from behind the last mistake, the rest is right with the probability given. One answer
in `ECHO` that is right goes on with what stands behind the cursor, as models like to do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.protocol import Tier

DRAFT_SHARE = 0.6
"""How often the draft is right where the target is."""
ECHO = 0.25
ECHO_LINES = 2
ECHO_CHARACTERS = 80
ANCHOR_CHARACTERS = 200
"""Before a cursor, that tell it from others."""
KEPT_CHARACTERS = 10 * ANCHOR_CHARACTERS
STATES = 64
"""Of the document that requests may yet be about."""
WORDS = ("qualor", "zentib", "vorpin", "dralix", "mubeck", "sofrin", "yandel", "kuspit", "jofreg", "xilbon")
"""In nobody's text."""


def typed_since(before: str, now: str) -> str | None:
    """What the text before the cursor has got since it was `before`; None if it does not go on from there."""
    anchor = before[-ANCHOR_CHARACTERS:]
    if len(before) < ANCHOR_CHARACTERS:  # It reaches back to the document's start.
        return now.removeprefix(before) if now.startswith(before) else None
    at = now.rfind(anchor)
    return now[at + len(anchor) :] if at >= 0 else None


@dataclass(frozen=True, slots=True)
class _Mistakes:
    """Where in the text to come each model says something else, and whether they go on behind its end."""

    target: tuple[int, ...]
    draft: tuple[int, ...]
    echoes: bool

    def behind(self, typed: int) -> _Mistakes:
        """The same for one who has typed so many characters of it."""
        return _Mistakes(
            tuple(at - typed for at in self.target if at >= typed),
            tuple(at - typed for at in self.draft if at >= typed),
            self.echoes,
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    before: str
    coming: str
    mistakes: _Mistakes


@dataclass(frozen=True, slots=True)
class Answer:
    """What will be said to one prompt."""

    text: str
    wrong_from: int | None
    """None if it is right."""

    @property
    def is_right(self) -> bool:
        return self.wrong_from is None


class Oracle:
    """Follows a replay, and answers for any document on its way. `show` and the rest may be called from two
    threads.

    `right` is the probability that the rest of a line is right.
    """

    def __init__(self, right: float, seed: int) -> None:
        self._right = right
        self._seed = seed
        self._shown: tuple[_Shown, ...] = ()
        self._made = dict[tuple[str, str], _Mistakes]()

    def show(self, text: str, cursor: int, coming: str) -> None:
        """The document is `text` now, and `coming` is what will be typed at `cursor`."""
        coming = _normalised(coming)
        before = _normalised(text[max(0, cursor - KEPT_CHARACTERS) : cursor])
        place = (before[-ANCHOR_CHARACTERS:], coming)
        mistakes = self._made.get(place) or self._typed_along(before, coming) or self._draw(coming)
        self._made[place] = mistakes
        self._shown = (_Shown(before, coming, mistakes), *self._shown[: STATES - 1])

    def answer(self, prefix: str, suffix: str, tier: Tier) -> Answer:
        """What to say between the two. For a document that is not going to be, something wrong."""
        for shown in self._shown:
            typed = typed_since(shown.before, prefix)
            if typed is not None and shown.coming.startswith(typed):
                return self._say(shown.coming[len(typed) :], shown.mistakes.behind(len(typed)), suffix, tier)
        return Answer(self._noise(prefix[-ANCHOR_CHARACTERS:], suffix[:1]), 0)

    def is_astray(self, prefix: str, said: str) -> bool:
        """Whether what was typed since `prefix` rules out that `said`, which followed it, can be of use."""
        if not self._shown:
            return False
        now = self._shown[0].before
        if typed_since(now, prefix) is not None:  # The cursor has not got there yet, or has gone back.
            return False
        typed = typed_since(prefix, now)
        return typed is None or not said.startswith(typed)

    def _typed_along(self, before: str, coming: str) -> _Mistakes | None:
        """Those known of the last state, if what was typed since is the beginning of what was to come."""
        if not self._shown:
            return None
        last = self._shown[0]
        typed = last.coming.removesuffix(coming)
        if last.coming != typed + coming or not (last.before + typed).endswith(before[-ANCHOR_CHARACTERS:]):
            return None
        return last.mistakes.behind(len(typed))

    def _draw(self, coming: str) -> _Mistakes:
        source = random.Random(f"{self._seed} {len(self._made)}")
        return _Mistakes(
            tuple(_places(coming, self._right, source)),
            tuple(_places(coming, self._right * DRAFT_SHARE, source)),
            source.random() < ECHO,
        )

    def _say(self, coming: str, mistakes: _Mistakes, suffix: str, tier: Tier) -> Answer:
        places = mistakes.draft if tier == "draft" else mistakes.target
        if places:
            at = places[0]
            wrong = self._noise(coming[at:], (coming + suffix)[at : at + 1])
            return Answer(coming[:at] + wrong, at)
        return Answer(coming + _echo(suffix) if mistakes.echoes else coming, None)

    def _noise(self, place: str, instead_of: str) -> str:
        source = random.Random(f"{self._seed} {place}")
        words = source.sample([word for word in WORDS if word[0] != instead_of.lower()], source.randint(2, 4))
        return " ".join(words)


def _places(coming: str, right: float, source: random.Random) -> list[int]:
    """Where mistakes are made: behind each line's start, and behind each mistake, another with 1 - `right`.

    A line's end counts as a character of it.
    """
    found: list[int] = []
    start = 0
    for line in coming.split("\n"):
        end = start + len(line) + 1
        while start < end and source.random() >= right:
            found.append(source.randrange(start, end))
            start = found[-1] + 1
        start = end
    return found


def _echo(suffix: str) -> str:
    return "\n".join(suffix.split("\n")[:ECHO_LINES])[:ECHO_CHARACTERS]


def _normalised(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
