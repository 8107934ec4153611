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

What an editor does say counts beside that, whether the text has changed already or will: what was accepted
is counted once. An editor that says what it has shown is believed, and what it has not shown was none.

Suggestions that follow one another at one cursor, along whatever was typed or accepted of them, are one
opportunity, which ends once, in one of `OUTCOMES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from umbrella_lsp.acceptance.agreement import Hull, Step, agreed_length, backward, forward, grown, is_key
from umbrella_lsp.document import LANGUAGES, Document, Edit

Outcome = Literal["accepted", "partly", "typed", "dismissed", "contradicted", "left"]
"""accepted: to its end, at least the last part of it at once.
partly: some of it at once, and then no more.
typed: all of it, key by key.
dismissed: the user sent it away, as only an editor can tell.
contradicted: something else was written where it stood.
left: the user went elsewhere, or was offered nothing more there.
"""
_Otherwise = Literal["dismissed", "contradicted", "left"]
Source = Literal["cache", "kept", "new"]
"""Whether a suggestion was remembered, was on its way already, or was asked for at this place."""
Said = Literal["shown", "accepted", "partly", "dismissed"]
"""What an editor may say of an offer."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
EVERYTHING = "all"
"""The tag of every opportunity."""

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
    ids: dict[str, int]
    """Its offers, and how much of `text` stood in the document when each was made."""
    taken: list[bool] = field(default_factory=list[bool])
    """For each character of `text` that stands in the document: whether it was accepted."""
    replaced: str = ""
    """What accepting has taken away, which an undo brings back."""
    words: int = 0
    lines: int = 0
    confirmed: int = 0
    """How far into `text` the editor has said that it was accepted."""
    shown: bool = False
    """The editor has said that it was."""

    @property
    def cursor(self) -> int:
        return self.start + len(self.taken)

    @property
    def was_seen(self) -> bool:
        """Whether it surely was, be it that the editor said so or that some of it was accepted."""
        return self.shown or self.confirmed > 0 or any(self.taken)

    def fate(self, otherwise: _Otherwise) -> Fate:
        """How it ends now, where nothing was accepted or typed to the end: `otherwise`."""
        taken = [*self.taken, *[True] * (self.confirmed - len(self.taken))]
        rest = len(self.text) - len(taken)
        if any(taken[-1:]) and not rest:
            outcome: Outcome = "accepted"
        elif any(taken):
            outcome = "partly"
        else:
            outcome = otherwise if rest else "typed"
        unearned = {at for m in _WRITTEN_BY_THE_EDITOR.finditer(self.text) for at in range(*m.span())}
        saved = sum(one and at not in unearned for at, one in enumerate(taken))
        return Fate(outcome, self.tags, self.words, self.lines, saved)


class Watcher:
    """Tells what becomes of offers. Used from one thread.

    `report` is called with each opportunity's fate as soon as it has ended.
    """

    def __init__(self, report: Callable[[Fate], None]) -> None:
        self.offers = 0
        """Opportunities begun."""
        self._report = report
        self._runs: dict[str, _Run] = {}
        self._tells_shown = False
        """The editor says what it has shown."""

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
            before, done = run.text, run.text[: len(run.taken)]
            run.text, *others = (done + text for text in texts)
            run.confirmed = min(run.confirmed, agreed_length(before, run.text))
            run.alternatives, run.replaces = tuple(others), offer.replaces
            # Where it came from at first: what is left of it always comes from memory.
            run.tags = _tags(document.language, offer, run.source, run.text)
            run.ids[offer.id] = len(done)
            return
        self._end(document.uri, "left")
        tags = _tags(document.language, offer, offer.source, texts[0])
        others = tuple(texts[1:])
        run = _Run(offset, texts[0], others, offer.replaces, tags, offer.source, {offer.id: 0})
        self._runs[document.uri] = run
        self.offers += 1

    def changed(self, before: Document, edits: Sequence[Edit], after: Document) -> None:
        """`edits`, one after another, have made `after` of `before`."""
        run = self._runs.get(before.uri)
        if run is None or not edits:
            return
        hull = Hull.of(before.content, edits, after.content)
        step = forward(run, hull) or backward(run, hull)
        if step is not None:
            _take(run, step, edits)
        elif hull.start <= run.cursor + run.replaces and hull.end >= run.cursor:
            self._end(before.uri, "contradicted")
        else:
            self._end(before.uri, "left")

    def shown(self, id: str) -> None:  # noqa: A002 - what the protocol calls it
        """The editor says that it has shown the offer of this `id`, and so that it says such things."""
        self._tells_shown = True
        if found := self._offer(id):
            found[1].shown = True

    def accepted(self, id: str, units: int | None = None) -> None:  # noqa: A002
        """The editor says that the offer of this `id` was accepted: whole, or so many UTF-16 units of it.

        The text may be there already, or come.
        """
        if found := self._offer(id):
            _confirm(found[1], found[1].ids[id], units)

    def dismissed(self, id: str) -> None:  # noqa: A002
        """The editor says that the user sent the offer of this `id` away."""
        if found := self._offer(id):
            found[1].shown = True
            self._end(found[0], "dismissed")

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self._end(uri, "left")

    def close(self) -> None:
        """No more will come: whatever is open was left."""
        for uri in [*self._runs]:
            self._end(uri, "left")

    def _offer(self, id: str) -> tuple[str, _Run] | None:  # noqa: A002
        """The document and the opportunity that an offer belongs to, unless that has ended."""
        return next((found for found in self._runs.items() if id in found[1].ids), None)

    def _end(self, uri: str, otherwise: _Otherwise) -> None:
        run = self._runs.pop(uri, None)
        if run is None:
            return
        if self._tells_shown and not run.was_seen:
            self.offers -= 1  # Nobody had the opportunity.
        else:
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


def _take(run: _Run, step: Step, edits: Sequence[Edit]) -> None:
    """Note in `run` what `step`, made by `edits`, has done."""
    done = len(run.taken)
    if step.text != run.text:
        if run.confirmed == len(run.text):
            run.confirmed = len(step.text)
        run.text, run.alternatives = step.text, (run.text, *run.alternatives)
    if step.reached < done:
        del run.taken[step.reached :]
        run.replaces += len(run.replaced)
        run.replaced = ""
        run.confirmed = min(run.confirmed, step.reached)
        return
    written = grown(run.text[done : step.reached], step.removed)
    is_known = done < run.confirmed
    typed = 0 if is_known else sum(len(edit.text) for edit in edits if is_key(edit.text))
    typed = min(typed, len(written))
    at_once = typed < len(written) and (is_known or not is_key(written[typed:]))
    here = step.reached - done - len(written) + typed
    run.taken += [False] * here + [at_once] * (len(written) - typed)
    run.replaces = max(0, run.replaces - len(step.removed)) + step.closers
    run.replaced = step.removed if at_once else ""
    if at_once:
        _count_part(run)


def _confirm(run: _Run, start: int, units: int | None) -> None:
    """Note that `run` was accepted from `start` on: to its end, or so many UTF-16 units of it."""
    end = len(run.text) if units is None else start
    while end < len(run.text) and units is not None and units >= _units(run.text[end]):
        units -= _units(run.text[end])
        end += 1
    if end <= start:
        return
    run.confirmed = max(run.confirmed, end)
    if run.confirmed == len(run.taken) and not run.taken[-1]:
        run.taken[-1] = True  # One character alone, or blanks, passed for typed.
        _count_part(run)


def _count_part(run: _Run) -> None:
    """Note that what stands in the document of `run` by now ends with what was accepted."""
    done = len(run.taken)
    if done < len(run.text):
        ends_line = run.text[done - 1] == "\n" or run.text[done] in "\r\n"
        run.lines += ends_line
        run.words += not ends_line


def _units(char: str) -> int:
    """UTF-16 code units of a character."""
    return 1 + (char > "\uffff")
