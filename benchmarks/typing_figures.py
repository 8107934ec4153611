"""What a replay says of the server: its speed, where its answers came from, what was wrong with them.

An answer counts for the document as it was when the answer came. VS Code drops what it has cancelled; Neovim
takes everything, so there an answer for an earlier text is wrong, unless it crossed with the key on its way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import quantiles
from typing import Any, cast

from benchmarks.client_document import Encoding
from benchmarks.defects import Placed, common, duplicated_characters, placed, stale_characters
from benchmarks.foresight import texts_to_come
from benchmarks.oracle_engine import EngineCounts
from benchmarks.recordings import State, states
from benchmarks.replay import ENCODINGS, Asked, Replayed, items_of

MAX_DEFECTS = 50
"""That are told one by one."""
SOURCES = ("cache", "kept", "new")
REMEMBERED = 16
"""Suggestions shown lately, of which an unchanged one would be stale."""


@dataclass(frozen=True, slots=True)
class Defect:
    """Where something wrong was shown. Says nothing of the text."""

    trace: str
    key: int
    kind: str
    characters: int


@dataclass(slots=True)
class Tally:
    """What was counted in one replay, or in several."""

    keys: int = 0
    requests: int = 0
    shown: int = 0
    """Answers with a suggestion for the document as it was."""
    without_pass: int = 0
    """Of them, those for which the target began nothing and finished nothing: what was shown was known."""
    without_generation: int = 0
    """Of them, those for which the engine was asked nothing new."""
    cancelled: int = 0
    superseded: int = 0
    crossed: int = 0
    failed: int = 0
    unanswered: int = 0
    answered_twice: int = 0
    stale: int = 0
    duplicated: int = 0
    flicker: int = 0
    vanished: int = 0
    opportunities: int = 0
    saved: int = 0
    seconds: float = 0.0
    exit_codes: list[int] = field(default_factory=list[int])
    sources: list[str] = field(default_factory=list[str])
    tiers: list[str] = field(default_factory=list[str])
    first_ms: list[float] = field(default_factory=list[float])
    cache_ms: list[float] = field(default_factory=list[float])
    """Of the server, for answers from its cache."""
    server_ms: list[float] = field(default_factory=list[float])
    defects: list[Defect] = field(default_factory=list[Defect])

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def figures(self, engine: EngineCounts) -> dict[str, object]:
        """The document, but for what was run; `engine` is what its engine did meanwhile."""
        counted = Counter(self.sources)
        answers = len(self.sources)
        counts = {source: counted[source] for source in (*SOURCES, "silent")}
        return {
            "keys": self.keys,
            "requests": self.requests,
            "answers": answers,
            "shown": self.shown,
            "cancelled": self.cancelled,
            "superseded": self.superseded,
            "crossed": self.crossed,
            "failed": self.failed,
            "unanswered": self.unanswered,
            "answered_twice": self.answered_twice,
            "stale_characters": self.stale,
            "duplicated_characters": self.duplicated,
            "first_suggestion_ms": percentiles(self.first_ms),
            "server_ms": percentiles(self.server_ms),
            "cache_server_ms": percentiles(self.cache_ms),
            "answered_from": {
                **counts,
                "shares": {source: _share(count, answers) for source, count in counts.items()},
            },
            "shown_without_new_pass": _share(self.without_pass, self.shown),
            "shown_without_new_generation": _share(self.without_generation, self.shown),
            "draft_tier_shown": self.tiers.count("draft"),
            "tokens_recomputed_per_key": _share(engine.prompt - engine.reused, self.keys),
            "flicker": self.flicker,
            "flicker_share": _share(self.flicker, self.shown),
            "vanished": self.vanished,
            "opportunities": self.opportunities,
            "characters_saved_per_opportunity": _share(self.saved, self.opportunities),
            "target_passes": engine.passes,
            "target_passes_per_key": _share(engine.passes, self.keys),
            "wasted_target_passes": engine.wasted_passes,
            "generations": engine.generations,
            "engine_cancels": engine.cancels,
            "draft_generations": engine.drafts,
            "prefetches": engine.prefetches,
            "generations_right": None if engine.right is None else _share(engine.right, engine.generations),
            "seconds": round(self.seconds, 1),
            "server_exit_codes": self.exit_codes,
            "defects": [
                {name: getattr(defect, name) for name in ("trace", "key", "kind", "characters")}
                for defect in self.defects[:MAX_DEFECTS]
            ],
        }


def percentiles(samples: Sequence[float]) -> dict[str, float | None]:
    """The median, the 95th and the 99th percentile; None each if there are no samples."""
    if not samples:
        return {"p50": None, "p95": None, "p99": None}
    cuts = quantiles(samples, n=100, method="inclusive") if len(samples) > 1 else 99 * [samples[0]]
    return {f"p{percent}": round(cuts[percent - 1], 2) for percent in (50, 95, 99)}


def tally(replayed: Replayed) -> Tally:
    """Everything there is to count in a replay."""
    found = Tally(
        keys=replayed.keys,
        requests=len(replayed.asked),
        seconds=replayed.seconds,
        exit_codes=[replayed.exit_code],
    )
    judge = _Judge(replayed, found)
    asked_at, came_at = defaultdict[int, list[Asked]](list), defaultdict[int, list[Asked]](list)
    for asked in replayed.asked:
        judge.count(asked)
        asked_at[asked.state].append(asked)
        if asked.answered_state is not None:
            came_at[asked.answered_state].append(asked)
    coming = texts_to_come(replayed.recording, replayed.keys)
    for state in states(replayed.recording, replayed.keys):
        judge.key(state)
        came = sorted(came_at[state.number], key=lambda asked: asked.answered_s or 0.0)
        for asked in came:
            judge.answer(state, coming[state.number], asked)
        if asked_at[state.number]:
            judge.opportunity(state, coming[state.number])
    return found


@dataclass(frozen=True, slots=True)
class _Ghost:
    """A suggestion on the screen."""

    text: str
    """The document's, when it came."""
    cursor: int
    added: str

    def left(self, state: State) -> str | None:
        """What of it is still to be typed; None if something else was done than to type along."""
        size = state.cursor - self.cursor
        if size < 0 or len(state.text) - len(self.text) != size:
            return None
        typed = self.added[:size]
        same = state.text == self.text[: self.cursor] + typed + self.text[self.cursor :]
        return self.added[size:] if same else None


class _Judge:
    """Goes through one replay, state by state."""

    def __init__(self, replayed: Replayed, found: Tally) -> None:
        self._replayed = replayed
        self._encoding: Encoding = ENCODINGS[replayed.editor]
        self._found = found
        self._ghost: _Ghost | None = None
        self._shown: list[_Ghost] = []
        self._accepted: tuple[str, int] | None = None
        """What was to come when a suggestion was accepted, and how much of it that suggestion gave."""

    def count(self, asked: Asked) -> None:
        """What became of a request, whatever the document."""
        found, log = self._found, self._replayed.log.get(asked.id, {})
        if "server_ms" in log:
            found.server_ms.append(float(log["server_ms"]))
        found.answered_twice += asked.answers > 1
        found.unanswered += not asked.answers
        is_late = asked.answered_state != asked.state
        if asked.error is not None:
            found.cancelled += asked.is_cancelled
            found.failed += not asked.is_cancelled
        elif asked.answers and asked.result is None and is_late:
            found.superseded += 1
        elif asked.answers:
            items = items_of(asked.result)
            source = self._told(asked, "source") if items else "silent"
            found.sources.append(source if source in SOURCES or not items else "new")
            if source == "cache" and "server_ms" in log:
                found.cache_ms.append(float(log["server_ms"]))
            if items and asked.answered_s is not None:
                found.first_ms.append((asked.answered_s - asked.sent_s) * 1000)

    def key(self, state: State) -> None:
        """A key was typed: of what is shown, something is left or nothing."""
        if self._ghost and not self._ghost.left(state):
            self._ghost = None

    def answer(self, state: State, coming: str, asked: Asked) -> None:
        """An answer came while the document was that of `state`."""
        if asked.error is not None or (asked.is_cancelled and self._replayed.editor == "vscode"):
            return
        items = items_of(asked.result)
        if not items:
            if asked.result is not None and self._ghost:
                self._found.vanished += 1
                self._ghost = None
            return
        if asked.read_state < state.number != asked.state and self._version(items[0]) != state.number + 1:
            self._found.crossed += 1
            return
        places = [self._judged(state, coming, item) for item in items]
        self._show(state, asked, places[0])

    def opportunity(self, state: State, coming: str) -> None:
        """A suggestion was asked for where `coming` was to come: something to save, unless it is saved."""
        if self._accepted:
            text, size = self._accepted
            if coming and text.endswith(coming) and len(text) - len(coming) < size:
                return
            self._accepted = None
        if coming:
            self._found.opportunities += 1
            shown = self._ghost.left(state) if self._ghost else None
            if shown and (right := _right_part(shown, coming)):
                self._found.saved += right
                self._accepted = coming, right

    def _judged(self, state: State, coming: str, item: dict[str, Any]) -> Placed | None:
        place = placed(state.text, state.cursor, item, self._encoding)
        if place is None or self._version(item) not in (None, state.number + 1):
            self._note(state, "range" if place is None else "version", "stale", len(item["insertText"]))
            return place
        stale = max(stale_characters(state.text, place, coming), self._unchanged(state, place, coming))
        self._note(state, "typed", "stale", stale)
        self._note(state, "doubled", "duplicated", duplicated_characters(state.text, place, coming))
        return place

    def _unchanged(self, state: State, place: Placed, coming: str) -> int:
        """Characters typed since the same suggestion was shown before, which it should begin with no more."""
        if common(place.added, coming) >= min(2, len(coming)) > 0:
            return 0
        for ghost in reversed(self._shown):
            size = state.cursor - ghost.cursor
            if size > 0 and ghost.added == place.added and ghost.left(state) is not None:
                return min(size, len(place.added))
        return 0

    def _show(self, state: State, asked: Asked, place: Placed | None) -> None:
        if place is None or not place.added:
            return
        found = self._found
        found.shown += 1
        source = self._told(asked, "source")
        passes = self._replayed.log.get(asked.id, {}).get("passes", "")
        found.without_pass += source == "cache" or passes == "0"
        found.without_generation += source in ("cache", "kept")
        found.tiers.append(self._told(asked, "tier"))
        left = self._ghost.left(state) if self._ghost else None
        if left and not place.added.startswith(left):
            found.flicker += 1
        self._ghost = _Ghost(state.text, state.cursor, place.added)
        self._shown = [*self._shown[1 - REMEMBERED :], self._ghost]

    def _note(self, state: State, what: str, kind: str, characters: int) -> None:
        if characters:
            setattr(self._found, kind, getattr(self._found, kind) + characters)
            self._found.defects.append(
                Defect(self._replayed.recording.name, state.number, f"{kind}: {what}", characters)
            )

    def _told(self, asked: Asked, name: str) -> str:
        """What the server says of an answer: in the answer itself, else in its log."""
        items = items_of(asked.result)
        said = _signal(items[0]).get(name) if items else None
        return str(said or self._replayed.log.get(asked.id, {}).get(name, ""))

    def _version(self, item: dict[str, Any]) -> int | None:
        version = _signal(item).get("version")
        return version if isinstance(version, int) else None


def _signal(item: dict[str, Any]) -> dict[str, Any]:
    """What the item's command will tell the server when it is accepted."""
    command = item.get("command")
    arguments = cast("dict[str, Any]", command).get("arguments") if isinstance(command, dict) else None
    first = cast("list[object]", arguments)[0] if isinstance(arguments, list) and arguments else None
    return cast("dict[str, Any]", first) if isinstance(first, dict) else {}


def _right_part(added: str, coming: str) -> int:
    """Characters that accepting whole lines of `added` saves one who means to write `coming`."""
    saved = 0
    for line in added.splitlines(keepends=True):
        if not coming[saved:].startswith(line):
            break
        saved += len(line)
    return saved


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
