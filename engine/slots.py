"""Which cached prompt a request continues. Owns the slots; knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Reusable(Protocol):
    """A cache that can say how much of a prompt it saves."""

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many leading `tokens` are cached."""
        ...


S = TypeVar("S", bound=Reusable)


@dataclass(slots=True)
class _Entry(Generic[S]):
    slot: S
    session: str
    size: int
    """Tokens of the last prompt it was taken for."""


class SlotPool(Generic[S]):
    """At most `capacity` slots, made as they are needed, the least recently used one given up first.

    A session keeps its slot while there is room for others, so that the command line does not evict an
    editor. Beyond that, a request takes a slot over where it reuses more of it than it throws away:
    every prompt of one template begins alike, and that alone must not cost an editor its cache.
    """

    def __init__(self, capacity: int, make: Callable[[], S]) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._capacity = capacity
        self._make = make
        self._entries: list[_Entry[S]] = []
        """Least recently used first."""

    def take(self, session: str, tokens: Sequence[int]) -> S:
        """The slot to run the prompt `tokens` in. Valid until the next call; the pool keeps owning it."""
        entry = self._of_session(session) or self._worth_taking(tokens) or self._next()
        entry.session, entry.size = session, len(tokens)
        self._entries = [other for other in self._entries if other is not entry] + [entry]
        return entry.slot

    def _of_session(self, session: str) -> _Entry[S] | None:
        return next((entry for entry in self._entries if session and entry.session == session), None)

    def _worth_taking(self, tokens: Sequence[int]) -> _Entry[S] | None:
        full = len(self._entries) == self._capacity
        shared = [(e.slot.reusable(tokens), e) for e in self._entries if full or not e.session]
        worth = [(size, entry) for size, entry in shared if 2 * size > entry.size]
        return max(worth, key=lambda pair: pair[0])[1] if worth else None

    def _next(self) -> _Entry[S]:
        if len(self._entries) == self._capacity:
            return self._entries[0]
        entry = _Entry(self._make(), "", 0)
        self._entries.append(entry)
        return entry
