"""Where the last tokens of a text have stood before, in the documents of one workspace. Pure; torch-free.

A bounded suffix array (Manber and Myers 1990) over the documents' ids read backwards: sorted like that,
the places whose preceding tokens agree with a given tail for longest are neighbours. 8 bytes a token,
and up to a fifth more between two merges. Sorting needs some 40 bytes more for each token it sorts.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.draft.suffix import CONTINUATION, LONGEST, Match

SHORTEST = 3
"""Tokens that must agree for a place to be a match."""
MERGE_SHARE = 0.1
"""Tokens that came or went since everything was sorted, relative to what was, that sort it again."""
FEW, MAX_EQUALS = 16, 128
"""Of more places of one agreement on either side of the tail's own, so many are looked at."""

_ID = 4
"""Bytes of an id: big-endian, so that bytes compare as ids do."""
_BREAK = b"\xff" * _ID
"""Stands between documents, for no token: ids are below 2 to the 31st."""


def packed(ids: Iterable[int]) -> bytes:
    """A document's ids as this module keeps them: backwards, four bytes each."""
    return np.fromiter(ids, np.dtype(">u4"))[::-1].tobytes()


@dataclass(frozen=True, slots=True)
class Segment:
    """Some documents, sorted together. Those that went since are not among its `places`."""

    data: bytes = b""
    """Packed documents, the newest first, each followed by breaks."""
    places: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Indices into `data`, in ids, of all tokens that another one follows in their document.

    Ascending by the `LONGEST` ids from there on, which are those before the place in the text, read
    backwards; among equals the newest place comes first.
    """
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Where each document stands in `data`, in ids; the oldest first."""

    @staticmethod
    def of(documents: Mapping[str, bytes]) -> Segment:
        """Sort packed `documents`, the oldest first."""
        spans: dict[str, tuple[int, int]] = {}
        end = sum(len(document) // _ID + 1 for document in documents.values())
        for path, document in documents.items():
            start = end - 1 - len(document) // _ID
            spans[path], end = (start, end - 1), start
        # So many breaks at the end that every place has `LONGEST` ids from there on.
        data = _BREAK.join([*reversed([*documents.values()]), _BREAK * LONGEST]) if documents else b""
        return Segment(data, _sorted_places(np.frombuffer(data, np.dtype(">u4"))), spans)

    @property
    def tokens(self) -> int:
        """Tokens of its documents."""
        return sum(end - start for start, end in self.spans.values())

    @property
    def gone(self) -> int:
        """Tokens of documents that went since, which still take four bytes each."""
        return max(0, len(self.data) // _ID - LONGEST - len(self.spans)) - self.tokens

    def documents(self) -> dict[str, bytes]:
        """Its documents, packed; the oldest first."""
        return {path: self.data[_ID * start : _ID * end] for path, (start, end) in self.spans.items()}

    def without(self, paths: Collection[str]) -> Segment:
        """The same without some documents; nothing is sorted for it."""
        leaving = [self.spans[path] for path in paths if path in self.spans]
        if not leaving:
            return self
        stays = np.ones(len(self.data) // _ID, np.bool_)
        for start, end in leaving:
            stays[start:end] = False
        spans = {path: span for path, span in self.spans.items() if path not in paths}
        return Segment(self.data, self.places[stays[self.places]], spans)

    def search(self, key: bytes, limit: int) -> list[tuple[int, int]]:
        """At most `limit` pairs of agreement with `key`, a packed tail, and place; best and newest first."""
        places, contexts = self.places.data, self._contexts(len(key))
        low = high = bisect_left(places, key, key=contexts)
        found: list[tuple[int, int]] = []
        while len(found) < limit:
            # The rest lies on both sides of [low, high), and agrees the less the further away.
            length = max(
                _agreement(contexts(places[low - 1]), key) if low else 0,
                _agreement(contexts(places[high]), key) if high < len(places) else 0,
            )
            if length < SHORTEST:
                break
            start = key[: _ID * length]
            starts = self._contexts(len(start))
            # Mostly few are equal: the whole is searched only where the next few are not enough.
            first, last = max(0, low - FEW), min(len(places), high + FEW)
            if first and starts(places[first]) == start:
                first = 0
            if last < len(places) and starts(places[last]) == start:
                last = len(places)
            first = bisect_left(places, start, first, low, key=starts)
            last = bisect_right(places, start, high, last, key=starts)
            near = places[max(first, low - MAX_EQUALS) : low], places[high : min(last, high + MAX_EQUALS)]
            newest = sorted([*near[0], *near[1]])[: limit - len(found)]
            found += [(length, place) for place in newest]
            low, high = first, last
        return found

    def continuation(self, place: int) -> tuple[int, ...]:
        """What follows `place` in its document, at most `CONTINUATION` ids."""
        end = _ID * place
        start = max(0, end - _ID * CONTINUATION)
        # Found where it stands only: no id is so high that it begins with a break's byte.
        last_break = self.data.rfind(_BREAK, start, end)
        start = last_break + _ID if last_break >= 0 else start
        return struct.unpack(f">{(end - start) // _ID}I", self.data[start:end])[::-1]

    def _contexts(self, size_bytes: int) -> Callable[[int], bytes]:
        """The first bytes of a place's context, for comparing."""
        data = self.data
        return lambda place: data[_ID * place : _ID * place + size_bytes]


@dataclass(frozen=True, slots=True)
class WorkspaceIndex:
    """The documents of one workspace: many that were sorted once, and few that came since. Never changes."""

    base: Segment = field(default_factory=Segment)
    recent: Segment = field(default_factory=Segment)

    @property
    def documents(self) -> int:
        """How many documents are held."""
        return len(self.base.spans) + len(self.recent.spans)

    @property
    def tokens(self) -> int:
        """How many tokens are held."""
        return self.base.tokens + self.recent.tokens

    def matches(self, tail: Sequence[int], limit: int) -> list[Match]:
        """At most `limit` places whose preceding tokens agree with the end of `tail`.

        The longest agreement first; among equals the document that was pushed last, and in it the place
        that comes last. Of many thousand equals only some are looked at.
        """
        last = tail[-LONGEST:]
        key = struct.pack(f">{len(last)}I", *reversed(last))
        segments = (self.recent, self.base)
        found = sorted(
            (-length, age, place)
            for age, segment in enumerate(segments)
            for length, place in segment.search(key, limit)
        )
        return [Match(-less, segments[age].continuation(place)) for less, age, place in found[:limit]]

    def changed(self, added: Mapping[str, bytes], removed: Collection[str] = ()) -> WorkspaceIndex:
        """The index after some documents went and packed ones came, in that order.

        Sorts what came lately, and everything once that is more than `MERGE_SHARE` of the whole.
        """
        leaving = {*removed, *added}
        base = self.base.without(leaving)
        recent = {path: d for path, d in self.recent.documents().items() if path not in leaving}
        recent.update(added)
        fresh = sum(len(document) for document in recent.values()) // _ID
        if fresh + base.gone > MERGE_SHARE * base.tokens:
            return WorkspaceIndex(Segment.of({**base.documents(), **recent}))
        return WorkspaceIndex(base, Segment.of(recent))

    def oldest(self, tokens: int) -> list[str]:
        """The documents pushed least recently that have at least so many tokens together, or all."""
        paths: list[str] = []
        for segment in (self.base, self.recent):
            for path, (start, end) in segment.spans.items():
                if tokens <= 0:
                    return paths
                paths.append(path)
                tokens -= end - start
        return paths


def _agreement(one: bytes, other: bytes) -> int:
    """How many ids two packed tails of equal size have in common from their end on."""
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return len(one) // _ID - -(-difference.bit_length() // (8 * _ID))


def _sorted_places(ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """`Segment.places` of `ids` [n], by prefix doubling."""
    ranks = ids.astype(np.uint64)
    reach = 1
    while 2 * reach < LONGEST:
        pairs = _pairs(ranks, reach)
        order = np.argsort(pairs)
        ordered = pairs[order]
        ranks[order] = np.cumsum(np.concatenate(([False], ordered[1:] != ordered[:-1])))
        reach *= 2
    # Stable, as what stands first in `ids` is the newest.
    order = np.argsort(_pairs(ranks, reach), kind="stable")
    ends = ids == int.from_bytes(_BREAK)
    is_place = np.zeros(len(ids), np.bool_)
    is_place[1:] = ~(ends[1:] | ends[:-1])
    return order[is_place[order]].astype(np.int32)


def _pairs(ranks: npt.NDArray[np.uint64], reach: int) -> npt.NDArray[np.uint64]:
    """One number for the ranks, below 2 to the 32nd, of a place and of the one `reach` further on."""
    pairs = ranks << np.uint64(32)
    pairs[:-reach] |= ranks[reach:]  # What would come after the end: behind breaks, so it never counts.
    return pairs
