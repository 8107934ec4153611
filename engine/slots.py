"""Which cached prompt a request continues. Owns the slots; knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar


class Reusable(Protocol):
    """Caches of one prompt, which save another prompt that begins alike some work."""

    def reusable(self, tokens: Sequence[int], adapter: object = None) -> int:
        """How many leading `tokens` are cached, as computed with `adapter`."""
        ...

    def use(self, adapter: object) -> None:
        """Be for prompts of `adapter` from now on; what is cached of another is lost."""
        ...

    def adopt(self, other: Self, tokens: Sequence[int]) -> None:
        """Copy from `other`, which stays as it is, as many leading `tokens` as it holds of our adapter's."""
        ...


S = TypeVar("S", bound=Reusable)


def draft_tier_slots(slots: int) -> int:
    """Of the draft tier, beside so many of the target: a document's, and one for what is fetched ahead or is
    an alternative, unless memory is so short that the target has one alone.
    """
    return min(slots, 2)


@dataclass(slots=True, eq=False)
class _Entry(Generic[S]):
    slot: S
    session: str = ""
    size: int = 0
    """Tokens of the last prompt it was lent for."""
    pinned: bool = False
    """Whether a job runs in it, or is paused in it."""


class SlotPool(Generic[S]):
    """At most `capacity` slots, made as they are needed, the least recently used one given up first.

    Whichever slot a request gets, it starts from the longest prefix that any slot holds: where that is
    another one, even one in use, the prefix is copied. So which slot it gets decides only what is lost.
    A session keeps the last slot it had; one that belongs to none is given up before any that does, so
    that the command line does not evict an editor.
    """

    def __init__(self, capacity: int, make: Callable[[], S]) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self._make = make
        self._entries: list[_Entry[S]] = []
        """Least recently used first."""

    @property
    def available(self) -> bool:
        """Whether a slot can be lent."""
        return len(self._entries) < self.capacity or any(not entry.pinned for entry in self._entries)

    @property
    def has_spare(self) -> bool:
        """Whether a slot can be lent that no session loses."""
        return len(self._entries) < self.capacity or any(
            not entry.pinned and not entry.session for entry in self._entries
        )

    @contextmanager
    def lend(self, session: str, tokens: Sequence[int], adapter: object = None) -> Generator[S]:
        """A slot to run the prompt `tokens` in with `adapter`, nobody else's meanwhile.

        Only while one is `available`.
        """

        def reusable(slot: S) -> int:
            return slot.reusable(tokens, adapter)

        entry = self._choose(session, reusable)
        for other in self._entries:
            if other.session == session:
                other.session = ""
        entry.session, entry.size, entry.pinned = session, len(tokens), True
        self._entries = [*(other for other in self._entries if other is not entry), entry]
        best = max((other.slot for other in self._entries), key=reusable)
        entry.slot.use(adapter)
        if reusable(best) > reusable(entry.slot):
            entry.slot.adopt(best, tokens)
        try:
            yield entry.slot
        finally:
            entry.pinned = False

    def _choose(self, session: str, reusable: Callable[[S], int]) -> _Entry[S]:
        free = [entry for entry in self._entries if not entry.pinned]
        own = [entry for entry in free if session and entry.session == session]
        nobodys = [entry for entry in free if not entry.session]
        # Every prompt of one template begins alike: a slot is continued only by what reuses most of it.
        continued = [entry for entry in nobodys if 2 * reusable(entry.slot) > entry.size]
        if own or continued:
            return max(own or continued, key=lambda entry: reusable(entry.slot))
        if len(self._entries) < self.capacity:
            return _Entry(self._make())
        return (nobodys or free)[0]
