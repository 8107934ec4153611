"""Jobs that are equally urgent have the models in turns, and no turn costs or changes anything."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

import engine.jobs as jobs
from engine.jobs import Job
from engine.protocol import StopReason
from engine.request import GenerationRequest
from tests.engine.bench import Bench, bench, of
from tests.engine.fakes import DEADLINE_S, LAYERS, FakeBackend, Receiver, Script

STEPS_A_TURN = 2


class Company(Script):
    """Clients on a worker whose every layer takes as much time as makes a turn of so many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0.0
        self.order: list[str] = []
        """Clients, as their chunks came."""

    def __call__(self, layer: int) -> None:
        self.now_ms += 1000.0 / (STEPS_A_TURN * LAYERS)
        super().__call__(layer)

    def submit(self, at: Bench, client: str, tokens: int = 6, text: str = "prompt") -> tuple[Job, Receiver]:
        receiver = Receiver()

        def deliver(chunk: object) -> None:
            self.order.append(client)
            receiver(chunk)  # pyright: ignore[reportArgumentType]

        return at.worker.submit(chat(client, tokens, text), deliver), receiver


def in_turns(order: Sequence[str], clients: str) -> bool:
    """Whether each had as many chunks as any other before it, but for one turn's and a step's."""
    ended = {client: max(at for at, other in enumerate(order) if other == client) for client in clients}
    for at in range(len(order)):
        counts = [order[: at + 1].count(client) for client in clients if at < ended[client]]
        if counts and max(counts) - min(counts) > STEPS_A_TURN + 1:
            return False
    return True


def chat(client: str, tokens: int = 6, text: str = "prompt") -> GenerationRequest:
    return replace(of("chat", text), client=client, max_tokens=tokens)


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Company:
    script = Company()
    monkeypatch.setattr(jobs, "now_ms", lambda: script.now_ms)
    return script


def test_equals_of_several_clients_have_turns_and_nothing_is_computed_twice(company: Company) -> None:
    backend = FakeBackend(in_layer=company, slots=4)
    receivers = dict[str, Receiver]()
    with bench(backend) as at:
        company.acts[1] = lambda: receivers.update(
            {client: company.submit(at, client)[1] for client in ("b", "c")}
        )
        _, receivers["a"] = company.submit(at, "a")
        receivers["a"].wait()
        assert [receivers[client].text for client in "abc"] == ["hijklm"] * 3
        assert company.order[:6] == list("aabbcc")
        assert in_turns(company.order, "abc")
        assert at.layers == 3 * 6 * LAYERS
        assert at.metric("umbrella_preemptions_total") == 0
    assert len(backend.target_slots) == 3
    timings = receivers["a"].chunks[-1].timings
    assert timings.prefill_ms + timings.decode_ms == 3000
    assert timings.queue_ms + 3000 == timings.total_ms > 4000


@pytest.mark.parametrize("slots", [1, 2])
def test_without_a_slot_to_wait_in_a_job_goes_on_to_its_end(company: Company, slots: int) -> None:
    with bench(FakeBackend(in_layer=company, slots=slots)) as at:
        company.acts[1] = lambda: late.append(company.submit(at, "b")[1])
        late = list[Receiver]()
        company.submit(at, "a")[1].wait()
        assert late[0].text == "hijklm"
    assert company.order == list("aaaaaabbbbbb")


def test_typing_finds_a_slot_and_what_waits_for_its_turn_loses_none(company: Company) -> None:
    typing = Receiver()
    with bench(FakeBackend(in_layer=company, slots=3)) as at:
        company.acts[1] = lambda: company.submit(at, "b")
        # In the second turn of the second client.
        company.acts[7 * LAYERS - 1] = lambda: at.worker.submit(of("typing", "typed"), typing)
        company.submit(at, "a")[1].wait()
        typing.wait()
    assert in_turns(company.order, "ab")
    assert at.layers == 3 * 6 * LAYERS


def test_with_a_paused_job_in_a_slot_there_is_one_fewer_to_take_turns_in(company: Company) -> None:
    with bench(FakeBackend(in_layer=company, slots=3)) as at:
        company.acts[2] = lambda: [company.submit(at, client) for client in "ab"]
        prefetch = Receiver()
        at.worker.submit(of("prefetch"), prefetch)
        assert prefetch.text == "hijklm"
        assert at.layers == 3 * 6 * LAYERS
    assert company.order == list("aaaaaabbbbbb")


def test_who_waits_for_a_turn_gives_its_slot_to_the_more_urgent_where_there_is_no_other(
    company: Company,
) -> None:
    """As when jobs that are less urgent wait in slots, and then come jobs that take turns too."""
    typing, first, second = Receiver(), Receiver(), Receiver()
    with bench(FakeBackend(in_layer=company, slots=3)) as at:

        def ahead(client: str, receiver: Receiver) -> None:
            at.worker.submit(replace(of("prefetch"), client=client), receiver)

        company.acts[1] = lambda: ahead("q", second)
        # Of the second in its first turn: the first waits in a slot.
        company.acts[2 * LAYERS + 2] = lambda: [company.submit(at, client) for client in "ab"]
        company.acts[4 * LAYERS + 3] = lambda: at.worker.submit(of("typing"), typing)
        ahead("p", first)
        assert first.text == second.text == typing.text == "hijklm"
        # Nobody was stopped in the middle of a pass.
        assert at.layers == 5 * 6 * LAYERS
    assert company.order == list("aaaaaabbbbbb")


def test_a_job_that_waits_for_its_turn_is_cancelled_at_once_and_its_slot_is_free(company: Company) -> None:
    backend = FakeBackend(in_layer=company, slots=3)
    with bench(backend) as at:
        jobs_of = dict[str, tuple[Job, Receiver]]()
        company.acts[1] = lambda: jobs_of.update(b=company.submit(at, "b"), c=company.submit(at, "c"))
        company.acts[2 * LAYERS + 1] = lambda: at.worker.cancel(jobs_of["a"][0])
        jobs_of["a"] = company.submit(at, "a")
        assert jobs_of["a"][1].ending.stop is StopReason.CANCELLED
        assert jobs_of["a"][1].text == "hi"
        assert jobs_of["b"][1].text == jobs_of["c"][1].text == "hijklm"
    # With "a" still in a slot, "c" would have had to wait for the end of "b".
    assert company.order[:7] == list("aaabbcc")
    assert in_turns(company.order[3:], "bc")
    assert at.layers == (2 + 6 + 6) * LAYERS
    assert len(backend.target_slots) == 2


def test_stopping_ends_what_waits_for_its_turn(company: Company) -> None:
    with bench(FakeBackend(in_layer=company, slots=3)) as at:
        other, reached, go_on = list[Receiver](), threading.Event(), threading.Event()
        company.acts[1] = lambda: other.append(company.submit(at, "b", 1000)[1])
        company.acts[2 * LAYERS + 2] = lambda: (reached.set(), go_on.wait(DEADLINE_S))
        _, receiver = company.submit(at, "a", 1000)
        assert reached.wait(DEADLINE_S)
        assert not at.worker.stop(0)
        assert receiver.ending.stop is StopReason.CANCELLED
        go_on.set()
        assert other[0].ending.stop is StopReason.CANCELLED
        assert at.worker.stop(DEADLINE_S)


def test_two_hundred_clients_are_all_answered_and_hold_no_more_slots_than_there_are(company: Company) -> None:
    backend = FakeBackend(in_layer=company, slots=4)
    with bench(backend, max_queue=200) as at:
        receivers = [company.submit(at, f"client {i}", 3)[1] for i in range(200)]
        assert {receiver.text for receiver in receivers} == {"hij"}
        assert at.layers == 200 * 3 * LAYERS
    assert len(backend.target_slots) <= 4


def test_what_is_to_be_done_between_steps_is_done_though_a_long_job_runs() -> None:
    script, done = Script(), list[tuple[object, int]]()
    backend = FakeBackend(in_layer=script)
    with bench(backend) as at:
        receiver = Receiver()
        script.acts[2] = lambda: at.worker.between_steps(
            lambda given: done.append((given, len(receiver.chunks)))
        )
        at.worker.submit(chat("a"), receiver)
        assert receiver.text == "hijklm"
    assert done == [(backend, 1)]
    at.worker.between_steps(lambda given: done.append((given, -1)))
    assert done[1:] == [(None, -1)]
