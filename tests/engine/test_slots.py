from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.slots import SlotPool
from tests.engine.fake_parts import FakeSlot


def use(pool: SlotPool[FakeSlot], session: str, tokens: str) -> FakeSlot:
    """Run a prompt and leave in its slot what a generation would."""
    with pool.lend(session, list(map(ord, tokens))) as slot:
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
    for text in ("header x", "something else", "", "header and a long file being edited, too"):
        assert use(pool, "", text) is not editor


def test_a_client_without_sessions_goes_on_in_the_slot_it_continues() -> None:
    pool = SlotPool(3, FakeSlot)
    first, second = use(pool, "", "one file"), use(pool, "", "another file")
    assert use(pool, "", "one file, typed on") is first
    assert use(pool, "", "another file, typed on") is second
    assert use(pool, "", "one more") not in (first, second)


def test_a_slot_in_use_is_nobody_elses_and_its_session_reuses_it_all_in_another() -> None:
    pool = SlotPool(2, FakeSlot)
    prefetch = use(pool, "editor", "the file")
    with pool.lend("editor", list(map(ord, "the file, soon"))) as again:
        assert again is prefetch
        prompt = list(map(ord, "the file, typed"))
        with pool.lend("editor", prompt) as typing:
            assert typing is not prefetch
            assert typing.reusable(prompt) == len("the file")
            assert not pool.available
        assert pool.available
    assert use(pool, "editor", "the file, typed on") is typing


def test_the_least_recently_used_slot_goes_first() -> None:
    pool = SlotPool(2, FakeSlot)
    a, b = use(pool, "a", "aaaa"), use(pool, "b", "bbbb")
    use(pool, "a", "aaaa")
    assert use(pool, "c", "cccc") is b
    assert use(pool, "d", "dddd") is a


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SlotPool(0, FakeSlot)


sessions = st.sampled_from(["", "a", "b", "c"])
requests = st.tuples(sessions, st.text("xy", min_size=1, max_size=6), st.booleans())


@given(capacity=st.integers(1, 3), steps=st.lists(requests, max_size=12))
def test_every_request_gets_a_slot_of_its_own_with_the_longest_prefix_that_any_slot_has(
    capacity: int, steps: list[tuple[str, str, bool]]
) -> None:
    made: list[FakeSlot] = []
    in_use: list[FakeSlot] = []
    last_of: dict[str, FakeSlot] = {}

    def make() -> FakeSlot:
        made.append(FakeSlot())
        return made[-1]

    pool = SlotPool(capacity, make)
    with ExitStack() as held:
        for session, prompt, goes_on in steps:
            assert pool.available == (len(in_use) < capacity)
            if not pool.available:
                return
            tokens = list(map(ord, prompt))
            longest = max((slot.reusable(tokens) for slot in made), default=0)
            before = [list(slot.tokens) for slot in made]
            own = last_of.get(session)
            with ExitStack() as lent:
                slot = lent.enter_context(pool.lend(session, tokens))
                assert slot.reusable(tokens) == longest
                assert slot not in in_use
                assert own is None or slot is own or own in in_use
                changed = [slot for slot, kept in zip(made, before, strict=False) if slot.tokens != kept]
                assert changed in ([], [slot])
                slot.tokens = tokens
                if goes_on:
                    in_use.append(slot)
                    held.push(lent.pop_all())
            last_of = {name: its for name, its in last_of.items() if its is not slot}
            if session:
                last_of[session] = slot
            assert len(made) <= capacity
