"""Whose turn it is: a queue driven by a clock that the test turns, and no models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.job_queue import QUANTUM_MS, JobQueue
from engine.jobs import Job
from tests.engine.bench import REQUEST, of
from tests.engine.fakes import Receiver

STEP_MS = 300
"""The longest step."""
TURN_MS = QUANTUM_MS + STEP_MS
"""No turn is longer."""
CHAT = of("chat")

Sizes = dict[str, list[list[int]]]
"""By client, of each of its jobs the milliseconds of each step."""


@dataclass
class Clock:
    """Runs jobs of known steps, one at a time, and notes who was served when."""

    queue: JobQueue
    now_ms: float = 0.0
    served: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ended: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    left: dict[Job, list[int]] = field(default_factory=dict)

    def submit(self, client: str, steps: Sequence[int]) -> Job:
        job = Job(replace(CHAT, client=client), Receiver(), len(self.left))
        self.left[job] = list(steps)
        assert self.queue.put([job])
        return job

    @property
    def backlogged(self) -> set[str]:
        """Clients with something left."""
        return {job.request.client for job, steps in self.left.items() if steps}

    def turn(self) -> None:
        """Let the next job have its turn."""
        job = self.queue.take(0)
        assert job is not None
        client = job.request.client
        self.turns.append(client)
        job.has_slot, job.turn_ms = False, 0.0
        while self.left[job]:
            step_ms = self.left[job].pop(0)
            self.now_ms += step_ms
            self.served[client] += step_ms
            self.queue.served(job, step_ms)
            if self.left[job] and self.queue.is_turn_over(job):
                job.has_slot = True
                assert self.queue.put([job])
                return
        self.queue.done(job)
        self.ended.append(client)


@pytest.fixture
def clock() -> Clock:
    return clock_with()


def clock_with(room: int = 100) -> Clock:
    queue = JobQueue()
    queue.room = {"target": room, "draft": 1}
    return Clock(queue)


def steps_of(seconds: float) -> list[int]:
    return [100] * round(seconds * 10)


works = st.lists(st.lists(st.integers(1, STEP_MS), min_size=1, max_size=16), min_size=1, max_size=4)
clients = st.sampled_from("abcde")


@settings(max_examples=50)
@given(st.dictionaries(clients, works, min_size=1))
def test_clients_that_all_want_more_are_never_further_apart_than_one_turn(sizes: Sizes) -> None:
    clock = clock_with()
    for client, jobs in sizes.items():
        for steps in jobs:
            clock.submit(client, steps)
    while clock.backlogged:
        clock.turn()
        served = [clock.served[client] for client in clock.backlogged]
        assert not served or max(served) - min(served) <= TURN_MS
    assert sorted(clock.ended) == sorted(client for client, jobs in sizes.items() for _ in jobs)
    assert not clock.queue.busy


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9000), clients, works), min_size=1, max_size=12))
def test_whoever_waits_is_served_before_the_others_had_two_turns_each(
    arrivals: list[tuple[int, str, list[list[int]]]],
) -> None:
    clock, waits = clock_with(), dict[str, float]()
    coming = sorted(arrivals, key=lambda arrival: arrival[0])
    while coming or clock.backlogged:
        if not clock.backlogged:
            clock.now_ms = max(clock.now_ms, coming[0][0])
        while coming and coming[0][0] <= clock.now_ms:
            _, client, jobs = coming.pop(0)
            for steps in jobs:
                clock.submit(client, steps)
            waits.setdefault(client, clock.now_ms)
        clock.turn()
        waits[clock.turns[-1]] = clock.now_ms
        waits = {client: since for client, since in waits.items() if client in clock.backlogged}
        assert all(clock.now_ms - since <= 2 * 5 * TURN_MS for since in waits.values())
    assert not clock.queue.busy


def test_a_short_job_does_not_wait_for_a_long_one_nor_for_a_batch(clock: Clock) -> None:
    for _ in range(50):
        clock.submit("batch", steps_of(3))
    clock.submit("short", steps_of(0.5))
    for _ in range(2):
        clock.turn()
    assert clock.turns == ["batch", "short"]
    assert clock.ended == ["short"]


def test_a_clients_own_jobs_come_in_the_order_in_which_it_sent_them_each_to_its_end(clock: Clock) -> None:
    first, second = clock.submit("a", steps_of(5)), clock.submit("a", steps_of(1))
    clock.turn()
    assert (clock.left[first], len(clock.left[second])) == ([], 10)


def test_who_comes_late_is_owed_nothing(clock: Clock) -> None:
    clock.submit("early", steps_of(60))
    for _ in range(30):
        clock.submit("other", steps_of(1))
    while clock.now_ms < 30_000:
        clock.turn()
    clock.submit("late", steps_of(60))
    before = dict(clock.served)
    while clock.now_ms < 45_000:
        clock.turn()
    assert clock.served["late"] == pytest.approx(5000, abs=TURN_MS)
    assert clock.served["early"] - before["early"] == pytest.approx(5000, abs=TURN_MS)


def test_nothing_is_gained_by_asking_for_one_long_thing_at_a_time() -> None:
    """Where slots are so short that no turn is cut off."""
    clock = clock_with(room=1)
    for _ in range(40):
        clock.submit("batch", steps_of(1))
    clock.submit("greedy", steps_of(10))
    for _ in range(22):
        clock.turn()
        if clock.turns[-1] == "greedy":
            clock.submit("greedy", steps_of(10))
    assert clock.turns.count("greedy") == 2
    assert clock.served["batch"] == 20_000


def test_once_nobody_wants_anything_nothing_is_remembered(clock: Clock) -> None:
    clock.submit("a", steps_of(30))
    clock.turn()
    clock.submit("a", steps_of(1))
    clock.submit("b", steps_of(1))
    clock.turn()
    assert clock.turns == ["a", "a"]


def test_no_more_jobs_are_begun_than_have_room_and_turns_go_round_among_those() -> None:
    clock = clock_with(room=2)
    for client in "abc":
        clock.submit(client, steps_of(3))
    while clock.backlogged:
        clock.turn()
    assert clock.turns == list("ababacbc")
    assert clock.ended == list("abc")


def test_with_room_for_one_a_job_goes_on_to_its_end() -> None:
    clock = clock_with(room=1)
    clock.submit("a", steps_of(9))
    clock.submit("b", steps_of(1))
    clock.turn()
    assert clock.ended == ["a"]


def test_urgent_time_is_not_charged_to_what_may_wait() -> None:
    queue = JobQueue()
    wanted = replace(of("typing"), client="a"), replace(CHAT, client="a"), replace(CHAT, client="b")
    typing, chat, other = (Job(each, Receiver(), at) for at, each in enumerate(wanted))
    assert queue.put([other, chat, typing])
    assert queue.take(0) is typing
    queue.served(typing, 60_000)
    queue.done(typing)
    assert queue.take(0) is chat


def test_a_closed_queue_takes_nothing() -> None:
    queue = JobQueue()
    first = Job(REQUEST, Receiver(), 0)
    assert queue.put([first])
    assert queue.close() == [first]
    assert not queue.put([Job(REQUEST, Receiver(), 1)])
    assert queue.take(0) is None
