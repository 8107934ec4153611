"""What an editor is told as the engine's state changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from umbrella_lsp.status import (
    Answered,
    Chosen,
    Ended,
    Event,
    Missing,
    News,
    Noticed,
    Seen,
    Sought,
    StatusBoard,
    Working,
)

ON, OFF, ELSEWHERE = Chosen(True), Chosen(False), Chosen(True, is_elsewhere=True)
LOADING, READY = Seen("loading", 0.25, model="big + small"), Seen("ready", 1.0, model="big + small")
FAILED = Seen("failed", message="It does not fit.")
NONE = Missing("No engine can be had.")
CRASHED = Noticed("The engine was started again.")
BUSY, IDLE = Working(True), Working(False)
TEXTS = ("", "one", "two")


def told(*events: Event) -> list[News]:
    board = StatusBoard()
    return [board.take(event) for event in events]


def kinds(*events: Event) -> list[str]:
    """The kind of each status that is sent."""
    return [news.status.kind for news in told(*events) if news.status]


def shown(*events: Event) -> list[str]:
    """Every sentence that is shown."""
    return [sentence for news in told(*events) for sentence in (news.error, news.notice) if sentence]


def test_an_engine_is_looked_for_loads_answers_and_ends() -> None:
    assert kinds(ON, Sought(), LOADING, READY, Ended(), Sought(), LOADING, READY) == [
        "starting",
        "loading",
        "ready",
        "unloaded",
        "starting",
        "loading",
        "ready",
    ]
    loading, ready = told(ON, LOADING, READY)[1:]
    assert loading.status is not None
    assert ready.status is not None
    assert (loading.status.progress, ready.status.progress) == (0.25, None)
    assert (loading.status.model, ready.status.message) == ("big + small", "")
    assert loading.status.message


def test_a_share_that_is_none_is_brought_into_range() -> None:
    (news,) = told(Seen("loading", 7.0))
    assert news.status is not None
    assert news.status.progress == 1.0


def test_an_error_is_shown_once_however_often_an_engine_is_looked_for() -> None:
    assert shown(ON, NONE, *[Sought(), NONE] * 9) == [NONE.message]
    assert kinds(ON, NONE, *[Sought(), NONE] * 9) == ["starting", "error"]


def test_an_engine_that_fails_at_each_start_is_shown_once() -> None:
    assert shown(ON, *[Sought(), LOADING, FAILED, Ended()] * 5) == [FAILED.message]
    assert shown(ON, *[Sought(), LOADING, Ended(), CRASHED] * 5) == [CRASHED.message]


def test_what_goes_wrong_after_all_was_well_is_shown_anew() -> None:
    assert shown(ON, NONE, Sought(), READY, Ended(), Sought(), NONE) == [NONE.message] * 2
    assert shown(ON, CRASHED, READY, Answered(), Ended(), CRASHED) == [CRASHED.message] * 2


def test_whoever_wants_another_engine_is_told_how_that_goes() -> None:
    assert shown(ON, NONE, ELSEWHERE, Sought(), NONE) == [NONE.message] * 2
    assert kinds(ON, NONE, ELSEWHERE, Sought(), NONE) == ["starting", "error", "starting", "error"]


def test_nothing_is_shown_of_what_is_turned_off_until_it_is_turned_on() -> None:
    events = OFF, NONE, CRASHED, BUSY, ON
    assert kinds(*events) == ["off", "error"]
    assert shown(*events) == [NONE.message]


def test_only_an_engine_that_answers_is_busy() -> None:
    board = StatusBoard()
    busy = [board.take(event).status for event in (LOADING, BUSY, READY, IDLE, BUSY, Ended())]
    assert [status.busy if status else None for status in busy] == [False, None, True, False, True, False]


def test_the_languages_are_those_of_the_last_who_said_so() -> None:
    board = StatusBoard()
    board.take(Seen("ready", languages=("python",)))
    assert board.status.languages == ("python",)
    board.take(Chosen(True, ("go",)))
    assert board.status.languages == ("go",)


events = st.one_of(
    st.builds(Chosen, st.booleans(), st.just(()), st.booleans()),
    st.builds(Missing, st.sampled_from(TEXTS[1:])),
    st.builds(Noticed, st.sampled_from(TEXTS[1:])),
    st.builds(
        Seen,
        st.sampled_from(["starting", "loading", "ready", "draining", "failed"]),
        st.floats(0, 1),
        st.sampled_from(TEXTS),
    ),
    st.builds(Working, st.booleans()),
    st.sampled_from([Sought(), Ended(), Answered()]),
)


@given(st.lists(events, max_size=30))
def test_whatever_happens_nothing_is_said_twice_in_a_row(happening: list[Event]) -> None:
    board, enabled = StatusBoard(), True
    sent: object = None
    may_complain = True
    for event in happening:
        news = board.take(event)
        assert (news.status or sent) == board.status
        assert news.status != sent
        sent = board.status
        if isinstance(event, Chosen):
            enabled = event.enabled
            may_complain |= event.is_elsewhere
        may_complain |= isinstance(event, Seen) and event.state == "ready"
        assert (board.status.kind == "off") is not enabled
        assert enabled or not (news.error or news.notice or board.status.busy)
        assert (board.status.progress is not None) == (board.status.kind == "loading")
        if news.error:
            assert board.status.kind == "error"
            assert may_complain
            may_complain = False
