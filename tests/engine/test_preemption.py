from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import engine.jobs as jobs
from engine.protocol import Priority, StopReason
from engine.request import GenerationRequest
from tests.engine.bench import Bench, bench, of
from tests.engine.fakes import DEADLINE_S, LAYERS, FakeBackend, Gate, Receiver, Script

ALONE = 6 * LAYERS
"""Layers of a job of six tokens that nothing interrupts."""


def submitting(at: Bench, request: GenerationRequest, receiver: Receiver) -> Callable[[], object]:
    return lambda: at.worker.submit(request, receiver)


@pytest.mark.parametrize("at_layer", [1, 4, 6, ALONE - 1])
def test_a_pass_goes_on_where_it_was_interrupted_and_no_layer_is_run_again(at_layer: int) -> None:
    script, typing = Script(), Receiver()
    backend = FakeBackend(in_layer=script)
    with bench(backend) as at:
        script.acts[at_layer] = submitting(at, of("typing", "other prompt"), typing)
        prefetch = at.run(of("prefetch"))
        assert at.layers == 2 * ALONE
        assert at.metric("umbrella_preemptions_total") == 1
    assert (prefetch.text, typing.text) == ("hijklm", "nopqrs")
    assert [chunk.counts.generated for chunk in prefetch.chunks] == [1, 2, 3, 4, 5, 6]
    assert prefetch.chunks[-1].counts.target_passes == 6
    assert len(backend.target_slots) == 2


@pytest.mark.parametrize(("slots", "unwound"), [(1, 2), (2, 1), (3, 0)])
def test_a_job_is_unwound_only_where_every_slot_is_in_use(slots: int, unwound: int) -> None:
    script = Script()
    backend = FakeBackend(in_layer=script, slots=slots)
    receivers = {"typing": Receiver(), "chat": Receiver(), "prefetch": Receiver()}
    with bench(backend) as at:
        # Each comes in the second layer of a pass of the one before it.
        script.acts[LAYERS + 2] = submitting(at, of("chat"), receivers["chat"])
        script.acts[LAYERS + 4] = submitting(at, of("typing"), receivers["typing"])
        at.worker.submit(of("prefetch"), receivers["prefetch"])
        assert [receiver.text for receiver in receivers.values()] == ["hijklm"] * 3
        assert at.layers == 3 * ALONE + 2 * unwound
        assert at.metric("umbrella_preemptions_total") == 2
    assert len(backend.target_slots) == slots
    waited_ms = [receiver.chunks[-1].timings.queue_ms for receiver in receivers.values()]
    assert waited_ms == sorted(waited_ms)


def test_the_most_urgent_is_answered_first_and_the_others_before_what_they_interrupted() -> None:
    script, order = Script(), list[str]()
    with bench(FakeBackend(in_layer=script)) as at:

        def submit(priority: Priority) -> Receiver:
            receiver = Receiver(lambda: order.append(priority))
            at.worker.submit(of(priority), receiver)
            return receiver

        script.acts[2] = lambda: (submit("chat"), submit("typing"))
        submit("prefetch").wait()
        assert at.metric("umbrella_preemptions_total") == 1
    assert order == ["typing", "chat", "prefetch"]


def test_equals_do_not_interrupt_each_other_nor_lengthen_a_pause() -> None:
    script, order = Script(), list[str]()
    first, second, typing = (
        Receiver(lambda name=name: order.append(name)) for name in ("first", "second", "typing")
    )
    with bench(FakeBackend(in_layer=script)) as at:
        script.acts[2] = submitting(at, of("chat"), second)
        script.acts[6] = submitting(at, of("typing"), typing)
        at.worker.submit(of("chat"), first)
        second.wait()
        assert at.metric("umbrella_preemptions_total") == 1
    assert order == ["typing", "first", "second"]


def test_typing_reuses_all_that_the_prefetch_it_pauses_has_cached() -> None:
    script, typing = Script(), Receiver()
    with bench(FakeBackend(in_layer=script)) as at:
        script.acts[LAYERS + 1] = submitting(at, of("typing", session="editor"), typing)
        prefetch = at.run(of("prefetch", session="editor"))
        assert typing.chunks[-1].counts.reused == len("\0prompt")
        again = at.run(of("typing", "prompthijk", session="editor"))
    assert again.chunks[-1].counts.reused == len("\0prompthijk")
    assert prefetch.text == typing.text


def test_what_is_fetched_ahead_costs_who_types_on_otherwise_nothing() -> None:
    script, typing = Script(), Receiver()
    with bench(FakeBackend(in_layer=script, slots=3)) as at:
        at.run(of("typing", session="editor"))

        def contradict() -> None:
            at.worker.submit(of("typing", "promptX", session="editor"), typing)
            at.worker.cancel(prefetch)

        script.acts[ALONE + LAYERS + 2] = contradict
        # As where a prompt has grown too long and loses its beginning.
        prefetch = at.worker.submit(of("prefetch", "far ahead", session="editor"), Receiver())
        assert typing.wait().chunks[-1].counts.reused == len("\0prompt")
        assert at.layers == ALONE + (LAYERS + 2) + ALONE


def test_what_was_fetched_ahead_is_there_once_it_is_accepted() -> None:
    backend = FakeBackend(slots=3)
    with bench(backend) as at:
        at.run(of("typing", session="editor"))
        at.run(of("prefetch", "prompthijklm", session="editor"))
        accepted = at.run(of("typing", "prompthijklmnop", session="editor"))
    assert accepted.chunks[-1].counts.reused == len("\0prompthijklmnop")
    assert len(backend.target_slots) == 2


def test_without_a_spare_slot_it_is_fetched_ahead_in_the_sessions_own() -> None:
    with bench(FakeBackend(slots=2)) as at:
        at.run(of("typing", "another", session="other"))
        at.run(of("typing", session="editor"))
        at.run(of("prefetch", "prompthijklm", session="editor"))
        again = at.run(of("typing", "another", session="other"))
    assert again.chunks[-1].counts.reused == len("\0another")


def test_a_paused_job_that_is_cancelled_ends_as_soon_as_it_is_resumed() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        prefetch, result = at.submit(of("prefetch"))
        gate.wait()
        _, typing = at.submit(of("typing"))
        gate.step()
        gate.wait()  # Typing runs now.
        at.worker.cancel(prefetch)
        assert not result.over.is_set()
        gate.release()
        assert result.ending.stop is StopReason.CANCELLED
        assert typing.text == "hijklm"
        assert prefetch.layers_after_cancel == 0
        assert at.layers == 1 + ALONE


def test_a_cancelled_job_is_not_kept_paused_for_what_came_later() -> None:
    gate, order = Gate(), list[str]()
    with bench(FakeBackend(in_layer=gate)) as at:
        prefetch = at.worker.submit(of("prefetch"), Receiver(lambda: order.append("prefetch")))
        gate.wait()
        at.submit(of("typing"))
        gate.step()
        gate.wait()
        at.worker.cancel(prefetch)
        later = Receiver(lambda: order.append("later"))
        at.worker.submit(of("typing"), later)
        gate.release()
        later.wait()
    assert order == ["prefetch", "later"]


def test_stopping_cancels_what_runs_and_what_is_paused() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        _, prefetch = at.submit(of("prefetch"))
        gate.wait()
        _, typing = at.submit(of("typing"))
        gate.step()
        gate.wait()
        assert not at.worker.stop(0)
        gate.release()
        assert at.worker.stop(DEADLINE_S)
        assert typing.ending.stop is prefetch.ending.stop is StopReason.CANCELLED
        assert at.layers == 2


def test_a_pause_is_waiting_and_neither_decoding_nor_part_of_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(jobs, "now_ms", lambda: now[0])
    script, typing = Script(), Receiver()

    def pass_time(layer: int) -> None:
        now[0] += 100 if at.worker._queue.begun[-1].request.priority == "typing" else 1
        script(layer)

    backend = FakeBackend(answer="a\n", in_layer=pass_time)
    with bench(backend) as at:
        script.acts[3 * LAYERS - 2] = submitting(at, of("typing"), typing)
        prefetch = at.run(replace(of("prefetch"), deadline_ms=300))
    assert prefetch.ending.stop is StopReason.LENGTH
    timings = prefetch.chunks[-1].timings
    assert (timings.queue_ms, timings.prefill_ms, timings.decode_ms) == (100 * ALONE, LAYERS, 5 * LAYERS)
    assert typing.chunks[-1].timings.decode_ms == 100 * 5 * LAYERS
