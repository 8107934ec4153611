"""A worker on a fake backend, for tests of what it does with jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

from engine.jobs import Job
from engine.metrics import Metrics
from engine.progress import Progress
from engine.protocol import Priority, StopSpec
from engine.request import GenerationRequest, TextPrompt
from engine.worker import Worker
from tests.engine.fake_parts import FakeSlot
from tests.engine.fakes import DEADLINE_S, FakeBackend, Receiver

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


def of(priority: Priority, text: str = "prompt", session: str = "") -> GenerationRequest:
    return replace(REQUEST, priority=priority, prompt=TextPrompt(text), session=session)


class Bench:
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

    @property
    def layers(self) -> float:
        """Started so far."""
        return self.metric("umbrella_layers_started_total")


@contextmanager
def bench(
    backend: FakeBackend | None = None,
    load: Callable[[Progress], FakeBackend] | None = None,
    max_queue: int = 8,
    unload_s: float = 0.0,
    at_failure: Callable[[], None] = lambda: None,
) -> Generator[Bench]:
    metrics, fake = Metrics(), backend or FakeBackend()
    worker = Worker(load or (lambda _progress: fake), metrics, max_queue=max_queue, unload_s=unload_s)
    worker.start(at_failure)
    yield Bench(worker, metrics)
    assert worker.stop(DEADLINE_S)
    assert Bench(worker, metrics).metric("umbrella_layers_started_after_cancel_total") == 0
