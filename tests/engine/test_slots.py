from __future__ import annotations

import pytest

from engine.slots import SlotPool
from tests.engine.fakes import FakeSlot


def use(pool: SlotPool[FakeSlot], session: str, tokens: str) -> FakeSlot:
    """Take a slot and leave in it what a generation would."""
    slot = pool.take(session, list(map(ord, tokens)))
    slot.tokens = list(map(ord, tokens))
    return slot


def test_a_session_keeps_its_slot_whatever_it_sends() -> None:
    pool = SlotPool(2, FakeSlot)
    editor = use(pool, "editor", "header one")
    use(pool, "other", "header two")
    assert use(pool, "editor", "entirely different") is editor


def test_the_command_line_does_not_evict_an_editor() -> None:
    pool = SlotPool(2, FakeSlot)
    editor = use(pool, "editor", "header and a long file being edited")
    for text in ("header x", "header y", "header z"):
        assert use(pool, "", text) is not editor
        use(pool, "editor", "header and a long file being edited more")


def test_a_slot_is_taken_over_where_most_of_it_is_reused() -> None:
    pool = SlotPool(2, FakeSlot)
    first = use(pool, "first window", "header and the file")
    use(pool, "another", "header, and something else")
    assert use(pool, "second window", "header and the file, typed on") is first


def test_no_session_loses_its_slot_while_there_is_room_for_another() -> None:
    pool = SlotPool(2, FakeSlot)
    first = use(pool, "first window", "header and the file")
    assert use(pool, "second window", "header and the file, typed on") is not first


def test_the_least_recently_used_slot_goes_first() -> None:
    pool = SlotPool(2, FakeSlot)
    a, b = use(pool, "a", "aaaa"), use(pool, "b", "bbbb")
    use(pool, "a", "aaaa")
    assert use(pool, "c", "cccc") is b
    assert use(pool, "d", "dddd") is a


def test_slots_are_made_only_as_they_are_needed() -> None:
    made: list[FakeSlot] = []

    def make() -> FakeSlot:
        made.append(FakeSlot())
        return made[-1]

    pool = SlotPool(3, make)
    use(pool, "a", "aaaa")
    use(pool, "a", "aaab")
    assert len(made) == 1


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SlotPool(0, FakeSlot)
