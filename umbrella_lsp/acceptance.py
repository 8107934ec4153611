"""What became of suggestions, told from how a document changes. Pure; knows no files, editors or clocks.

Editors say little of what their users do with ghost text, so it is read off the text. How is a matter of
rules, some of which can only guess:

- Text that agrees with what is left of the suggestion and grows the document by two characters or more at
  once was accepted. So, too, is counted what was pasted, or taken from the editor's own list, if it agrees
  to the letter: nothing in the text tells them apart.
- What one key can write was typed: one character, or blanks alone, as Return writes with the indentation
  after it. A closer that the editor adds by itself, or lets be typed over, counts for nothing.
- Taking back, by undo or backspace, takes back what was counted, as long as nothing else has happened.
- Any other change at the suggestion's place contradicts it; a change elsewhere, a suggestion elsewhere, or
  closing the document leaves it.

Suggestions that follow one another at one cursor, along whatever was typed or accepted of them, are one
opportunity, which ends once, in one of `OUTCOMES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq
from typing import Literal, get_args

from umbrella_lsp.document import LANGUAGES, Document, Edit
from umbrella_lsp.text import Text

Outcome = Literal["accepted", "partly", "typed", "contradicted", "left"]
"""accepted: to its end, at least the last part of it at once.
partly: some of it at once, and then no more.
typed: all of it, key by key.
contradicted: something else was written where it stood.
left: the user went elsewhere, or was offered nothing more there.
"""
Source = Literal["cache", "kept", "new"]
"""Whether a suggestion was remembered, was on its way already, or was asked for at this place."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
EVERYTHING = "all"
"""The tag of every opportunity."""
CLOSERS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"', "'": "'", "`": "`"}
"""What an editor may add to a character by itself."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_WRITTEN_BY_THE_EDITOR = re.compile(r"\r|(?<=[\r\n])[ \t]+")


@dataclass(frozen=True, slots=True)
class Offer:
    """A suggestion as it was given to an editor."""

    id: str
    text: str
    replaces: int = 0
    """Characters from the cursor on that it takes the place of."""
    alternatives: tuple[str, ...] = ()
    """Further texts that the editor may show in its place, for the same range."""
    tier: Literal["target", "draft"] = "target"
    source: Source = "new"
    confidence: float | None = None
    """From 0 to 1, if it is known."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How one opportunity ended. Holds nothing of the text."""

    outcome: Outcome
    tags: tuple[str, ...]
    """What it is counted under: `EVERYTHING`, and ``group:value`` for each group it belongs to."""
    words: int = 0
    """Parts accepted that end within a line."""
    lines: int = 0
    """Parts accepted that end a line, but not the suggestion."""
    saved: int = 0
    """Characters accepted, without what an editor writes by itself: the indentation of further lines."""


@dataclass(slots=True)
class _Run:
    """One opportunity that has not ended."""

    start: int
    """Where its text begins in the document."""
    text: str
    alternatives: tuple[str, ...]
    replaces: int
    tags: tuple[str, ...]
    source: Source
    ids: set[str]
    taken: list[bool] = field(default_factory=list[bool])
    """For each character of `text` that stands in the document: whether it was accepted."""
    replaced: str = ""
    """What accepting has taken away, which an undo brings back."""
    words: int = 0
    lines: int = 0
    confirmed: bool = False
    """The editor has said that all of it was accepted."""

    @property
    def cursor(self) -> int:
        return self.start + len(self.taken)

    def fate(self, otherwise: Literal["contradicted", "left"]) -> Fate:
        """How it ends now, where nothing was accepted or typed to the end: `otherwise`."""
        rest = len(self.text) - len(self.taken)
        taken = [*self.taken, *[self.confirmed] * rest]
        if self.confirmed or (any(taken[-1:]) and not rest):
            outcome: Outcome = "accepted"
        elif any(taken):
            outcome = "partly"
        else:
            outcome = otherwise if rest else "typed"
        unearned = {at for m in _WRITTEN_BY_THE_EDITOR.finditer(self.text) for at in range(*m.span())}
        saved = sum(one and at not in unearned for at, one in enumerate(taken))
        return Fate(outcome, self.tags, self.words, self.lines, saved)


@dataclass(frozen=True, slots=True)
class _Hull:
    """Where two texts may differ: from `start` on, and up to `end` of the first."""

    before: Text
    after: Text
    start: int
    end: int

    @staticmethod
    def of(before: Text, edits: Sequence[Edit], after: Text) -> _Hull:
        length, start, kept = len(before), len(before), len(before)
        for edit in edits:
            start, kept = min(start, edit.start), min(kept, length - edit.end)
            length += len(edit.text) - (edit.end - edit.start)
        return _Hull(before, after, start, max(start, len(before) - kept))

    @property
    def growth(self) -> int:
        return len(self.after) - len(self.before)

    def keeps_before(self, offset: int) -> bool:
        """Whether what stood before `offset` stands there yet."""
        return self.before.slice(self.start, offset) == self.after.slice(self.start, offset)

    def keeps_after(self, offset: int) -> bool:
        """Whether what stood from `offset` on is there yet, moved by `growth`."""
        moved, end = self.growth, self.end
        return self.before.slice(offset, end) == self.after.slice(offset + moved, end + moved)


@dataclass(frozen=True, slots=True)
class _Step:
    """A change that agrees with a suggestion."""

    text: str
    """The suggestion that it agrees with."""
    reached: int
    """Characters of `text` that stand in the document after it."""
    removed: str = ""
    """What it took away right of the cursor."""
    closers: int = 0
    """Characters that the editor has added right of the cursor."""


class Watcher:
    """Tells what becomes of offers. Used from one thread.

    `report` is called with each opportunity's fate as soon as it has ended.
    """

    def __init__(self, report: Callable[[Fate], None]) -> None:
        self.offers = 0
        """Opportunities begun."""
        self._report = report
        self._runs: dict[str, _Run] = {}

    @property
    def open(self) -> int:
        """Opportunities that have not ended."""
        return len(self._runs)

    def offered(self, document: Document, offset: int, offer: Offer) -> None:
        """`offer` is on its way to the user, at `offset` of `document`; its text may have any line ends."""
        texts = [_LINE_END.sub(document.line_ending, text) for text in (offer.text, *offer.alternatives)]
        run = self._runs.get(document.uri)
        if run is not None and _goes_on(run, document, offset):
            # A closer may have been typed over, which changes no text.
            run.taken += [False] * (offset - run.cursor)
            done = run.text[: len(run.taken)]
            run.text, *others = (done + text for text in texts)
            run.alternatives, run.replaces = tuple(others), offer.replaces
            # Where it came from at first: what is left of it always comes from memory.
            run.tags = _tags(document.language, offer, run.source, run.text)
            run.ids.add(offer.id)
            return
        self._end(document.uri, "left")
        tags = _tags(document.language, offer, offer.source, texts[0])
        others = tuple(texts[1:])
        run = _Run(offset, texts[0], others, offer.replaces, tags, offer.source, {offer.id})
        self._runs[document.uri] = run
        self.offers += 1

    def changed(self, before: Document, edits: Sequence[Edit], after: Document) -> None:
        """`edits`, one after another, have made `after` of `before`."""
        run = self._runs.get(before.uri)
        if run is None or not edits:
            return
        hull = _Hull.of(before.content, edits, after.content)
        step = _forward(run, hull) or _backward(run, hull)
        if step is not None:
            _take(run, step, edits)
        elif hull.start <= run.cursor + run.replaces and hull.end >= run.cursor:
            self._end(before.uri, "contradicted")
        else:
            self._end(before.uri, "left")

    def accepted(self, id: str) -> None:  # noqa: A002 - what the protocol calls it
        """The editor says that the offer of this `id` was accepted whole; its text may be there already."""
        for run in self._runs.values():
            if id in run.ids:
                run.confirmed = True
                if len(run.taken) == len(run.text):
                    run.taken[-1] = True  # One character alone passed for typed.

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self._end(uri, "left")

    def close(self) -> None:
        """No more will come: whatever is open was left."""
        for uri in [*self._runs]:
            self._end(uri, "left")

    def _end(self, uri: str, otherwise: Literal["contradicted", "left"]) -> None:
        run = self._runs.pop(uri, None)
        if run is not None:
            self._report(run.fate(otherwise))


def _tags(language: str, offer: Offer, source: Source, text: str) -> tuple[str, ...]:
    """Words of a known vocabulary only: an editor may call a language anything."""
    known = language if language in LANGUAGES.values() else "other"
    tags = [EVERYTHING, f"language:{known}", f"tier:{offer.tier}", f"source:{source}"]
    tags.append("shape:block" if _LINE_END.search(text.strip()) else "shape:line")
    if offer.confidence is not None:
        tags.append(f"confidence:{min(int(max(offer.confidence, 0.0) * 10), 9) / 10}")
    return tuple(tags)


def _goes_on(run: _Run, document: Document, offset: int) -> bool:
    """Whether an offer at `offset` is still about the opportunity of `run`."""
    ahead = offset - run.cursor
    left = run.text[len(run.taken) :]
    return 0 <= ahead < len(left) and document.content.slice(run.cursor, offset) == left[:ahead]


def _forward(run: _Run, hull: _Hull) -> _Step | None:
    """How the change follows the suggestion, or one of its alternatives, as far as it does.

    Told from the two texts alone, for editors put the same change in different words: as what was typed,
    as the shortest difference, or as the whole text. Of several readings the furthest counts.
    """
    at, done = run.cursor, len(run.taken)
    if not hull.keeps_before(at):
        return None
    right = hull.before.slice(at, at + run.replaces + 1)
    typed_over = 1 if right[:1] in CLOSERS.values() else 0
    found: list[_Step] = []
    for text in (run.text, *run.alternatives):
        if not text.startswith(run.text[:done]):
            continue
        ahead = hull.after.slice(at, at + len(text) - done)
        agreed = _agreed(ahead, text[done:])
        for removed in {0, run.replaces, typed_over}:
            reached = min(agreed, hull.growth + removed)
            closers = hull.growth + removed - reached
            added = hull.after.slice(at + reached, at + reached + closers)
            if reached < 0 or not _added_by_itself(text[done : done + reached], added):
                continue
            if (removed and not reached) or not hull.keeps_after(at + removed):
                continue
            found.append(_Step(text, done + reached, right[:removed], closers))
    return max(found, key=lambda step: (step.reached, -step.closers), default=None)


def _added_by_itself(written: str, added: str) -> bool:
    """Whether an editor may have added `added` to `written`: closers, and a line of their own for them."""
    closers = {CLOSERS[char] for char in written if char in CLOSERS}
    blanks = " \t\r\n" if written.isspace() and "\n" in written else ""
    return all(char in closers or char in blanks for char in added)


def _backward(run: _Run, hull: _Hull) -> _Step | None:
    """How the change takes back some of what was typed or accepted of the suggestion."""
    at, done = run.cursor, len(run.taken)
    pair = hull.before.slice(at - 1, at + 1)
    lost = int(pair[1:] != "" and CLOSERS.get(pair[0]) == pair[1:])  # With its opener, as it came.
    for closers, restored in ((0, ""), (0, run.replaced), (lost, "")):
        reached = done + hull.growth + closers - len(restored)
        back = run.start + reached
        if (
            0 <= reached < done
            and hull.keeps_before(back)
            and hull.after.slice(back, back + len(restored)) == restored
            and hull.keeps_after(at + closers)
        ):
            return _Step(run.text, reached)
    return None


def _take(run: _Run, step: _Step, edits: Sequence[Edit]) -> None:
    """Note in `run` what `step`, made by `edits`, has done."""
    done = len(run.taken)
    if step.text != run.text:
        run.text, run.alternatives = step.text, (run.text, *run.alternatives)
    if step.reached < done:
        del run.taken[step.reached :]
        run.replaces += len(run.replaced)
        run.replaced = ""
        run.confirmed = False
        return
    written = _grown(run.text[done : step.reached], step.removed)
    typed = 0 if run.confirmed else sum(len(edit.text) for edit in edits if _is_key(edit.text))
    typed = min(typed, len(written))
    at_once = typed < len(written) and (run.confirmed or not _is_key(written[typed:]))
    here = step.reached - done - len(written) + typed
    run.taken += [False] * here + [at_once] * (len(written) - typed)
    run.replaces = max(0, run.replaces - len(step.removed)) + step.closers
    run.replaced = step.removed if at_once else ""
    if at_once and step.reached < len(run.text):
        ends_line = run.text[step.reached - 1] == "\n" or run.text[step.reached] in "\r\n"
        run.lines += ends_line
        run.words += not ends_line


def _grown(text: str, removed: str) -> str:
    """What `text` brings that was not there in `removed`, whose place it takes."""
    start = _agreed(text, removed)
    text, removed = text[start:], removed[start:]
    end = _agreed(text[::-1], removed[::-1])
    return text[: len(text) - end]


def _agreed(one: str, other: str) -> int:
    """Characters that two texts have in common at their beginning."""
    return sum(takewhile(bool, map(eq, one, other)))


def _is_key(text: str) -> bool:
    """Whether one key may have written `text`."""
    return len(text) == 1 or text.isspace()
