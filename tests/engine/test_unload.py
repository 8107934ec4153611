"""Models that are given back and loaded again, and a device that gives out."""

from __future__ import annotations

import logging
import threading
import weakref

import pytest

from engine.errors import CheckpointError, DeviceError, EngineUnavailable
from engine.progress import Progress
from engine.protocol import StopReason
from tests.engine.bench import REQUEST, Bench, bench, of
from tests.engine.fakes import DEADLINE_S, LAYERS, FakeBackend, Gate, Receiver, Script, eventually


class Loads:
    """Loads a fresh backend each time, and remembers each without keeping it."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.gate = gate
        self.loaded: list[weakref.ref[FakeBackend]] = []

    def __call__(self, progress: Progress) -> FakeBackend:
        progress(0.5, "Loading layer 2 of 4")
        backend = FakeBackend(in_layer=self.gate) if self.gate else FakeBackend()
        self.loaded.append(weakref.ref(backend))
        return backend


def unloading(at: Bench) -> threading.Event:
    told = threading.Event()
    at.worker.unload(told.set)
    return told


def unload(at: Bench) -> None:
    assert unloading(at).wait(DEADLINE_S)


def test_nothing_holds_the_models_once_they_are_unloaded_and_the_next_request_loads_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads, held = Loads(), list[FakeBackend | None]()
    monkeypatch.setattr("engine.worker.give_back", lambda: held.extend(made() for made in loads.loaded))
    with bench(load=loads) as at:
        first = at.run()
        unload(at)
        assert at.worker.state == "unloaded"
        assert not at.worker.busy
        assert held == [None]
        again = at.run()
        assert at.worker.state == "ready"
    assert first.text == again.text == "hijklm"
    assert again.chunks[-1].counts.reused == 0
    assert len(loads.loaded) == 2


def test_what_the_models_hold_is_closed_and_where_that_fails_the_engine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stubborn(FakeBackend):
        def close(self) -> None:
            super().close()
            raise OSError("still registered")

    backend = Stubborn()
    with bench(backend) as at:
        at.run()
        unload(at)
        assert backend.is_closed
        assert at.run().text == "hijklm"
    assert "could not be closed" in caplog.text


def test_what_runs_and_what_waits_is_answered_before_the_models_go() -> None:
    gate = Gate()
    loads = Loads(gate)
    with bench(load=loads) as at:
        _, running = at.submit()
        gate.wait()
        told, twice = unloading(at), unloading(at)
        _, waiting = at.submit()
        assert at.worker.state == "ready"
        assert not told.is_set()
        gate.release()
        assert running.text == waiting.text == "hijklm"
        assert told.wait(DEADLINE_S)
        assert twice.wait(DEADLINE_S)
        assert len(loads.loaded) == 1


def test_a_request_that_comes_while_the_models_are_being_closed_is_answered() -> None:
    closing, may_close = threading.Event(), threading.Event()

    class Slow(FakeBackend):
        def close(self) -> None:
            closing.set()
            assert may_close.wait(DEADLINE_S)

    with bench(Slow()) as at:
        told = unloading(at)
        assert closing.wait(DEADLINE_S)
        _, receiver = at.submit()
        may_close.set()
        assert receiver.text == "hijklm"
        assert told.is_set()


def test_loading_that_nobody_waits_for_is_given_up() -> None:
    begun = threading.Event()

    def load(progress: Progress) -> FakeBackend:
        if begun.is_set():
            return FakeBackend()
        while True:
            progress(0.5, "Loading layer 2 of 4")
            begun.set()

    with bench(load=load) as at:
        assert begun.wait(DEADLINE_S)
        unload(at)
        assert (at.worker.state, at.worker.load_share, at.worker.message) == ("unloaded", 0.0, "")
        assert at.run().text == "hijklm"


def test_loading_that_somebody_waits_for_is_finished_first() -> None:
    may_load = threading.Event()

    def load(progress: Progress) -> FakeBackend:
        assert may_load.wait(DEADLINE_S)
        progress(0.5, "Loading layer 2 of 4")
        return FakeBackend()

    with bench(load=load) as at:
        _, receiver = at.submit()
        told = unloading(at)
        may_load.set()
        assert receiver.text == "hijklm"
        assert told.wait(DEADLINE_S)
        assert at.worker.state == "unloaded"


def test_models_that_nobody_uses_are_unloaded() -> None:
    with bench(unload_s=0.01) as at:
        assert at.run().text == "hijklm"
        eventually(lambda: at.worker.state == "unloaded")
        unload(at)  # Which they are already.
        assert at.run().text == "hijklm"


def test_a_job_that_is_cancelled_while_models_load_again_ends_at_once() -> None:
    may_load = threading.Event()
    may_load.set()

    def load(_progress: Progress) -> FakeBackend:
        assert may_load.wait(DEADLINE_S)
        return FakeBackend()

    with bench(load=load) as at:
        unload(at)
        may_load.clear()
        job, receiver = at.submit()
        eventually(lambda: at.worker.state == "loading")
        at.worker.cancel(job)
        assert receiver.ending.stop is StopReason.CANCELLED
        may_load.set()
        eventually(lambda: at.worker.state == "ready")


def test_models_that_cannot_be_loaded_again_are_told_to_who_waits() -> None:
    found = [FakeBackend()]

    def load(_progress: Progress) -> FakeBackend:
        if not found:
            raise CheckpointError("model.safetensors is gone; fetch it again")
        return found.pop()

    with bench(load=load) as at:
        unload(at)
        assert "is gone; fetch it again" in str(at.run().error)
        at.worker._thread.join(DEADLINE_S)
        unload(at)
        assert at.worker.state == "failed"


def test_an_unloaded_engine_can_be_drained() -> None:
    with bench() as at:
        unload(at)
        at.worker.drain()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            at.submit()
        assert not at.worker.busy


def test_memory_that_gives_out_costs_one_request_and_what_was_done_about_it_is_told() -> None:
    def give_out() -> None:
        backend.notice = "2 layers were moved to host memory."
        raise DeviceError("No memory is left for this request")

    script = Script()
    backend = FakeBackend(in_layer=script)
    script.acts[LAYERS + 1] = give_out
    with bench(backend) as at:
        assert "No memory is left" in str(at.run().error)
        eventually(lambda: at.worker.message == "2 layers were moved to host memory.")
        assert at.run().text == "hijklm"
        assert (at.worker.state, at.worker.is_lost) == ("ready", False)


def test_a_lost_device_is_told_to_everybody_and_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()
    typing, prefetch, waiting = Receiver(), Receiver(), Receiver()
    script = Script()

    def lose() -> None:
        at.worker.submit(of("prefetch"), waiting)
        raise DeviceError("The GPU stopped working (unspecified launch failure)", lost=True)

    script.acts[2] = lambda: at.worker.submit(of("typing"), typing)
    script.acts[4] = lose
    with bench(FakeBackend(in_layer=script), at_failure=failed.set) as at:
        at.worker.submit(of("prefetch"), prefetch)
        assert failed.wait(DEADLINE_S)
        for receiver in (typing, prefetch, waiting):
            assert "The GPU stopped working" in str(receiver.wait().error)
        assert (at.worker.state, at.worker.is_lost) == ("failed", True)
        with pytest.raises(EngineUnavailable, match="the next request starts another"):
            at.submit(REQUEST)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
