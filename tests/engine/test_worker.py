from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest

from engine.errors import CheckpointError, EngineBusy, EngineUnavailable, RequestError
from engine.executor import Executor
from engine.jobs import Job
from engine.progress import Progress
from engine.protocol import StopReason, StopSpec
from engine.request import TextPrompt, TokenPrompt
from tests.engine.bench import REQUEST, bench
from tests.engine.fakes import DEADLINE_S, LAYERS, FakeBackend, Gate, Receiver, eventually


def test_text_arrives_as_it_is_made_and_the_last_chunk_says_how_it_ended() -> None:
    with bench() as at:
        result = at.run()
    assert result.text == "hijklm"
    assert [chunk.counts.generated for chunk in result.chunks] == [1, 2, 3, 4, 5, 6]
    assert [chunk.ending is not None for chunk in result.chunks] == [False] * 5 + [True]
    assert result.ending.stop is StopReason.LENGTH


def test_time_is_booked_on_the_stage_it_was_spent_in() -> None:
    with bench() as at:
        timings = at.run().chunks[-1].timings
    assert min(timings.queue_ms, timings.prefill_ms, timings.decode_ms) > 0
    assert timings.queue_ms + timings.prefill_ms + timings.decode_ms <= timings.total_ms


def test_a_stop_string_is_neither_sent_nor_gone_past() -> None:
    with bench() as at:
        result = at.run(replace(REQUEST, max_tokens=20, stop=StopSpec(strings=("kl",))))
    assert result.text == "hij"
    assert (result.ending.stop, result.ending.stop_string) == (StopReason.STRING, "kl")
    assert result.chunks[-1].counts.generated == 5


def test_a_second_request_of_a_session_reuses_what_is_cached() -> None:
    with bench() as at:
        at.run(replace(REQUEST, session="editor"))
        again = at.run(replace(REQUEST, session="editor", prompt=TextPrompt("prompthij")))
    assert again.chunks[-1].counts.reused == len("\0prompthij")


def test_no_layer_starts_after_a_cancel() -> None:
    gate = Gate(layer=2)
    with bench(FakeBackend(in_layer=gate)) as at:
        job, receiver = at.submit()
        gate.wait()
        at.worker.cancel(job)
        started = at.metric("umbrella_layers_started_total")
        gate.release()
        assert receiver.ending.stop is StopReason.CANCELLED
        assert at.metric("umbrella_layers_started_total") == started == 3
        assert job.layers_after_cancel == 0


def test_a_layer_that_would_start_after_a_cancel_is_counted() -> None:
    job = Job(REQUEST, Receiver(), 0)
    job.start_layer()
    job.cancel()
    job._layers += 1  # What a path without the check would do.
    assert job.layers_after_cancel == 1


def test_a_waiting_job_is_cancelled_at_once_and_leaves_the_queue() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        _, first = at.submit()
        gate.wait()
        waiting, receiver = at.submit()
        at.worker.cancel(waiting)
        assert receiver.ending.stop is StopReason.CANCELLED
        assert at.metric("umbrella_queue_depth") == 0
        gate.release()
        assert first.text == "hijklm"


def test_a_deadline_waits_for_a_line_to_be_complete() -> None:
    backend = FakeBackend(answer="abc\ndefghijklmnop")
    with bench(backend) as at:
        result = at.run(replace(REQUEST, prompt=TokenPrompt((1,) * 17), max_tokens=100, deadline_ms=1e-6))
    assert result.text == "abc\n"
    assert result.ending.stop is StopReason.DEADLINE


def test_a_full_queue_refuses_and_says_so() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate), max_queue=1) as at:
        at.submit()
        gate.wait()
        at.submit()
        with pytest.raises(EngineUnavailable, match="1 requests are waiting"):
            at.submit()
        gate.release()


def test_chats_that_wait_do_not_keep_typing_out() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate), max_queue=1) as at:
        chat = replace(REQUEST, priority="chat")
        at.submit(chat)
        gate.wait()
        at.submit(chat)
        with pytest.raises(EngineBusy, match="1 requests are waiting"):
            at.submit(chat)

        _, typed = at.submit()

        gate.release()
        assert typed.text == "hijklm"


def test_several_requests_are_queued_together_or_not_at_all() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate), max_queue=3) as at:
        at.submit()
        gate.wait()
        refused = [Receiver() for _ in range(4)]
        with pytest.raises(EngineBusy, match="0 requests are waiting already, and 3 may"):
            at.worker.submit_all([(REQUEST, receiver) for receiver in refused])
        assert at.metric("umbrella_queue_depth") == 0
        taken = at.worker.submit_all([(REQUEST, receiver) for receiver in refused[:3]])
        assert at.metric("umbrella_queue_depth") == 3
        at.worker.cancel(taken[1])
        gate.release()
        assert [receiver.text for receiver in refused[:3]] == ["hijklm", "", "hijklm"]
        assert not refused[3].over.is_set()


def test_chunks_say_which_tokens_they_are_and_what_else_was_probable() -> None:
    with bench() as at:
        asked, plain = at.run(replace(REQUEST, top_logprobs=2)).chunks, at.run().chunks
    assert [chunk.tokens for chunk in asked] == [(ord(letter),) for letter in "hijklm"]
    assert asked[0].tops == (((ord("h"), -0.5), (ord("i"), -1.5)),)
    assert {chunk.tops for chunk in plain} == {()}


def test_the_vocabulary_is_there_once_it_is_loaded_and_outlives_the_models() -> None:
    gone = threading.Event()
    may_load = threading.Event()

    def load(_progress: Progress) -> FakeBackend:
        assert may_load.wait(DEADLINE_S)
        return FakeBackend()

    with bench(load=load) as at:
        executor: Executor = at.worker
        assert executor.vocabulary is None
        may_load.set()
        at.run()
        at.worker.unload(gone.set)
        assert gone.wait(DEADLINE_S)
        assert executor.vocabulary is not None
        assert executor.vocabulary.encode("hi", begin=True) == [0, ord("h"), ord("i")]


def test_requests_wait_while_the_models_load() -> None:
    may_load = threading.Event()

    def load(progress: Progress) -> FakeBackend:
        progress(0.25, "Loading layer 1 of 4")
        assert may_load.wait(DEADLINE_S)
        return FakeBackend()

    with bench(load=load) as at:
        _, receiver = at.submit()
        assert at.worker.busy
        eventually(lambda: at.worker.message == "Loading layer 1 of 4")
        may_load.set()
        assert receiver.text == "hijklm"
        assert (at.worker.state, at.worker.load_share, at.worker.message) == ("ready", 1.0, "")


def test_a_failed_load_is_told_to_who_waits_and_to_who_comes_later() -> None:
    submitted = threading.Event()

    def load(_progress: Progress) -> FakeBackend:
        assert submitted.wait(DEADLINE_S)
        raise CheckpointError("model.safetensors is cut off")

    with bench(load=load) as at:
        _, receiver = at.submit()
        submitted.set()
        assert "model.safetensors is cut off. Then run `umbrella-engine stop`" in str(receiver.wait().error)
        with pytest.raises(EngineUnavailable, match="is cut off"):
            at.submit()
        assert at.worker.state == "failed"


def test_an_unexpected_failure_of_loading_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    def load(_progress: Progress) -> FakeBackend:
        raise MemoryError("no room")

    with bench(load=load) as at:
        at.worker._thread.join(DEADLINE_S)
        assert at.worker.state == "failed"
        assert "no room (MemoryError)" in at.worker.message
    assert "loading failed" in caplog.text


def test_stopping_while_loading_ends_the_loading() -> None:
    begun = threading.Event()

    def load(progress: Progress) -> FakeBackend:
        while True:
            progress(0.5, "Loading layer 2 of 4")
            begun.set()

    with bench(load=load) as at:
        assert begun.wait(DEADLINE_S)
        _, receiver = at.submit()
        assert at.worker.stop(DEADLINE_S)
        assert receiver.ending.stop is StopReason.CANCELLED


def test_stopping_ends_what_runs_and_what_waits() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        _, running = at.submit()
        gate.wait()
        _, waiting = at.submit()
        assert not at.worker.stop(0)
        gate.release()
        assert running.ending.stop is StopReason.CANCELLED
        assert waiting.ending.stop is StopReason.CANCELLED


def test_draining_finishes_what_was_accepted_and_accepts_nothing_more() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        _, running = at.submit()
        gate.wait()
        at.worker.drain()
        with pytest.raises(EngineBusy, match="shutting down"):
            at.submit()
        assert at.worker.busy
        gate.release()
        assert running.text == "hijklm"


def test_a_request_that_cannot_be_served_costs_nobody_else_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with bench() as at:
        refused = at.run(replace(REQUEST, prompt=TokenPrompt((999,)))).error
        assert isinstance(refused, RequestError)
        exploded = at.run(replace(REQUEST, prompt=TextPrompt("explode"))).error
        assert isinstance(exploded, EngineUnavailable)
        assert at.run().text == "hijklm"
    assert "ZeroDivisionError" in caplog.text
    assert "in generate" in caplog.text, "a place to look"
    assert "explode" not in caplog.text, "the message of an error may quote the user's text"


def test_idleness_counts_from_the_end_of_the_last_job() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        _, receiver = at.submit()
        gate.wait()
        assert at.worker.idle_s == 0
        gate.release()
        receiver.wait()
        assert at.worker.idle_s < DEADLINE_S


def test_a_drafter_that_raises_is_counted_and_named_once_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with bench(FakeBackend(failed=("suffix",))) as at:
        assert at.run().text == at.run().text == "hijklm"
        assert at.metric('umbrella_drafter_failures_total{drafter="suffix"}') == 2
    assert caplog.messages == [f"#{n} goes on without the drafter suffix, which failed" for n in (0, 1)]


def test_counts_and_times_reach_the_metrics() -> None:
    with bench() as at:
        at.run()
        assert at.metric('umbrella_tokens_total{kind="generated"}') == 6
        assert at.metric('umbrella_tokens_total{kind="prompt"}') == 7
        assert at.metric("umbrella_target_passes_total") == 6
        assert at.metric("umbrella_layers_started_total") == 6 * LAYERS
        assert at.metric('umbrella_request_seconds_total{stage="total"}') > 0
