from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from engine.errors import CheckpointError, EngineUnavailable, RequestError, UmbrellaError
from engine.jobs import Chunk, Job
from engine.metrics import Metrics
from engine.protocol import Priority, StopReason, StopSpec
from engine.request import GenerationRequest, TextPrompt, TokenPrompt
from engine.worker import Worker
from tests.engine.fakes import DEADLINE_S, LAYERS, FakeBackend, FakeSlot, Gate, Receiver

REQUEST = GenerationRequest(
    prompt=TextPrompt("prompt"),
    max_tokens=6,
    stop=StopSpec(),
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    seed=0,
)


class Bench:
    """A worker on a fake backend."""

    def __init__(self, worker: Worker[FakeSlot], metrics: Metrics) -> None:
        self.worker = worker
        self.metrics = metrics

    def submit(self, request: GenerationRequest = REQUEST) -> tuple[Job, Receiver]:
        receiver = Receiver()
        return self.worker.submit(request, receiver), receiver

    def run(self, request: GenerationRequest = REQUEST) -> Receiver:
        return self.submit(request)[1].wait()

    def metric(self, name: str) -> float:
        lines = self.metrics.text().decode().splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


@contextmanager
def bench(
    backend: FakeBackend | None = None,
    load: Callable[[Callable[[float], None]], FakeBackend] | None = None,
    max_queue: int = 8,
) -> Generator[Bench]:
    metrics, fake = Metrics(), backend or FakeBackend()
    worker = Worker(load or (lambda _progress: fake), metrics, slots=2, max_queue=max_queue)
    worker.start()
    yield Bench(worker, metrics)
    assert worker.stop(DEADLINE_S)
    assert Bench(worker, metrics).metric("umbrella_layers_started_after_cancel_total") == 0


def of(priority: Priority, text: str = "prompt", session: str = "") -> GenerationRequest:
    return replace(REQUEST, priority=priority, prompt=TextPrompt(text), session=session)


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


def test_typing_interrupts_prefetch_whose_text_is_the_same_as_without() -> None:
    with bench() as at:
        undisturbed = at.run(of("prefetch")).text
    gate = Gate(layer=1)
    with bench(FakeBackend(in_layer=gate)) as at:
        _, prefetch = at.submit(of("prefetch"))
        gate.wait()
        gate.step()
        gate.wait()  # One token is out, and the second pass is in its second layer.
        _, typing = at.submit(of("typing", "other prompt"))
        gate.release()
        typing.wait()
        assert prefetch.text == undisturbed
        assert at.metric("umbrella_preemptions_total") == 1
    last = prefetch.chunks[-1]
    assert last.counts.generated == 6
    assert last.counts.target_passes == 6
    assert last.counts.prompt == len("\0prompt")
    assert len(prefetch.chunks) == 6
    assert typing.chunks[-1].timings.queue_ms < last.timings.queue_ms + last.timings.total_ms


def test_typing_is_answered_before_what_it_interrupted() -> None:
    gate, order = Gate(), list[str]()
    with bench(FakeBackend(in_layer=gate)) as at:
        receivers = {name: Receiver() for name in ("prefetch", "chat", "typing")}

        def deliver_to(name: str) -> Callable[[Chunk | UmbrellaError], None]:
            def deliver(chunk: Chunk | UmbrellaError) -> None:
                receivers[name](chunk)
                if receivers[name].over.is_set():
                    order.append(name)

            return deliver

        at.worker.submit(of("prefetch"), deliver_to("prefetch"))
        gate.wait()
        at.worker.submit(of("chat"), deliver_to("chat"))
        at.worker.submit(of("typing"), deliver_to("typing"))
        gate.release()
        texts = {receiver.text for receiver in receivers.values()}
    assert order == ["typing", "chat", "prefetch"]
    assert texts == {"hijklm"}


def test_equals_do_not_interrupt_each_other() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        _, first = at.submit()
        gate.wait()
        _, second = at.submit()
        gate.release()
        assert first.text == second.text
        assert at.metric("umbrella_preemptions_total") == 0


def test_an_interrupted_job_can_be_cancelled() -> None:
    gate = Gate()
    with bench(FakeBackend(in_layer=gate)) as at:
        prefetch, result = at.submit(of("prefetch"))
        gate.wait()
        at.submit(of("typing"))
        gate.step()
        gate.wait()  # Typing runs now.
        at.worker.cancel(prefetch)
        assert result.ending.stop is StopReason.CANCELLED
        gate.release()


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


def test_requests_wait_while_the_models_load() -> None:
    may_load = threading.Event()

    def load(progress: Callable[[float], None]) -> FakeBackend:
        progress(0.25)
        assert may_load.wait(DEADLINE_S)
        return FakeBackend()

    with bench(load=load) as at:
        _, receiver = at.submit()
        assert at.worker.busy
        may_load.set()
        assert receiver.text == "hijklm"
        assert (at.worker.state, at.worker.load_share) == ("ready", 1.0)


def test_a_failed_load_is_told_to_who_waits_and_to_who_comes_later() -> None:
    submitted = threading.Event()

    def load(_progress: Callable[[float], None]) -> FakeBackend:
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
    def load(_progress: Callable[[float], None]) -> FakeBackend:
        raise MemoryError("no room")

    with bench(load=load) as at:
        at.worker._thread.join(DEADLINE_S)
        assert at.worker.state == "failed"
        assert "no room (MemoryError)" in at.worker.failure
    assert "loading failed" in caplog.text


def test_stopping_while_loading_ends_the_loading() -> None:
    begun = threading.Event()

    def load(progress: Callable[[float], None]) -> FakeBackend:
        while True:
            progress(0.5)
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
        with pytest.raises(EngineUnavailable, match="shutting down"):
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


def test_counts_and_times_reach_the_metrics() -> None:
    with bench() as at:
        at.run()
        assert at.metric('umbrella_tokens_total{kind="generated"}') == 6
        assert at.metric('umbrella_tokens_total{kind="prompt"}') == 7
        assert at.metric("umbrella_target_passes_total") == 6
        assert at.metric("umbrella_layers_started_total") == 6 * LAYERS
        assert at.metric('umbrella_request_seconds_total{stage="total"}') > 0
