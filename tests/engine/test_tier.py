"""Text from the draft model alone, while the target is busy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.backend import Speed
from engine.config import EngineConfig
from engine.costs import CostTable
from engine.generation import EngineBackend
from engine.loaded import speed_of
from engine.metrics import Metrics
from engine.protocol import Priority, StopReason
from engine.request import GenerationRequest
from engine.speculation import TimedModel
from engine.worker import Worker
from tests.engine.bench import bench, of
from tests.engine.fakes import (
    DEADLINE_S,
    DRAFT_LAYERS,
    LAYERS,
    FakeBackend,
    Receiver,
    Script,
    error_of,
    events_of,
    eventually,
    running_engine,
)
from tests.engine.pair import Disturbed, Lent, request, run, tiny_pair
from tests.engine.scripted import draft_model

ALONE = 6 * LAYERS
"""Layers of a target's job of six tokens that nothing interrupts."""


def draft(text: str = "prompt", session: str = "") -> GenerationRequest:
    return replace(of("typing", text, session), tier="draft")


def test_it_is_answered_before_the_next_layer_of_a_typing_request_that_runs() -> None:
    script = Script()
    with bench(FakeBackend(in_layer=script)) as at:
        layers_at_answer = list[float]()
        first = Receiver(lambda: layers_at_answer.append(at.layers))
        script.acts[LAYERS + 2] = lambda: at.worker.submit(draft(), first)
        typing = at.run(of("typing"))
        assert layers_at_answer == [LAYERS + 2 + 6 * DRAFT_LAYERS]
        assert at.layers == ALONE + 6 * DRAFT_LAYERS, "and nothing of the target was run again"
    assert (first.text, typing.text) == ("HIJKLM", "hijklm")
    assert {chunk.tier for chunk in first.chunks} == {"draft"}
    assert {chunk.tier for chunk in typing.chunks} == {"target"}
    assert (first.chunks[-1].counts.target_passes, typing.chunks[-1].counts.target_passes) == (0, 6)


def test_it_needs_no_slot_of_the_target_and_waits_for_none() -> None:
    script, first, typing = Script(), Receiver(), Receiver()
    backend = FakeBackend(in_layer=script, slots=1)
    with bench(backend) as at:
        # Typing needs the slot that the prefetch is in; the draft has its own.
        script.acts[2] = lambda: (at.worker.submit(of("typing"), typing), at.worker.submit(draft(), first))
        order = list[str]()
        first._at_end, typing._at_end = (lambda: order.append("draft")), (lambda: order.append("typing"))
        prefetch = at.run(of("prefetch"))
    assert order == ["draft", "typing"]
    assert (first.text, typing.text, prefetch.text) == ("HIJKLM", "hijklm", "hijklm")
    assert (len(backend.target_slots), len(backend.draft_slots)) == (1, 1)


def test_a_session_goes_on_in_its_draft_slot_whatever_the_target_does() -> None:
    backend = FakeBackend()
    with bench(backend) as at:
        at.run(of("typing", "other text", "editor"))
        held = list(backend.target_slots[0].tokens)
        at.run(draft("prompt", "editor"))
        at.run(draft("not this one", "another"))
        again = at.run(draft("promptHIx", "editor"))
        assert again.chunks[-1].counts.reused == len("\0promptHI")
    assert [slot.tokens for slot in backend.target_slots] == [held]


def test_a_prefetch_of_the_draft_waits_for_who_types() -> None:
    script, order = Script(), list[str]()
    with bench(FakeBackend(in_layer=script)) as at:
        ahead = Receiver(lambda: order.append("ahead"))
        script.acts[2] = lambda: at.worker.submit(replace(draft(), priority="prefetch"), ahead)
        at.worker.submit(of("typing"), Receiver(lambda: order.append("typing")))
        ahead.wait()
    assert order == ["typing", "ahead"]


def test_drafts_of_more_priorities_than_there_are_slots_are_all_answered() -> None:
    script, order = Script(), list[str]()
    backend = FakeBackend(in_layer=script)
    with bench(backend) as at:

        def submit(priority: Priority) -> Receiver:
            receiver = Receiver(lambda: order.append(priority))
            at.worker.submit(replace(draft(), priority=priority), receiver)
            return receiver

        script.acts[1], script.acts[2] = (lambda: submit("chat")), (lambda: submit("typing"))
        assert submit("prefetch").text == "HIJKLM"
    assert order == ["typing", "chat", "prefetch"]
    assert len(backend.draft_slots) == 2


def test_a_reply_says_which_model_wrote_it_whole_or_streamed(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        for path, body in (("/infill", {"input_prefix": "ab"}), ("/v1/completions", {"prompt": "ab"})):
            for tier in ("target", "draft"):
                asked = {**body, "umbrella": {"tier": tier}}
                assert engine.http.post(path, json=asked).json()["umbrella"]["tier"] == tier
                events = events_of(engine.http.post(path, json={**asked, "stream": True}))
                assert {event["umbrella"]["tier"] for event in events} == {tier}
        assert engine.http.post("/infill", json={}).json()["umbrella"]["tier"] == "target"


@pytest.mark.parametrize(
    "config", [EngineConfig(model="fake", draft_model=None), EngineConfig(model="fake", engine="ar")]
)
def test_without_a_draft_model_it_is_refused_by_name(tmp_path: Path, config: EngineConfig) -> None:
    with running_engine(tmp_path, config=config) as engine:
        for path, status in (("/infill", 422), ("/v1/completions", 400)):
            response = engine.http.post(path, json={"prompt": "a", "umbrella": {"tier": "draft"}})
            assert response.status_code == status
            assert error_of(response)["param"] == "umbrella.tier"
            assert "draft_model" in error_of(response)["message"]
            assert engine.http.post(path, json={"prompt": "a"}).status_code == 200


def test_health_says_what_to_expect_once_it_is_known(tmp_path: Path) -> None:
    with running_engine(tmp_path, FakeBackend(speed=Speed(1700.0, 40.0))) as engine:
        eventually(lambda: engine.http.get("/health").json()["state"] == "ready")
        health = engine.http.get("/health").json()
    assert (health["pass_ms"], health["draft_ms"]) == (1700.0, 40.0)


def test_a_draft_line_is_expected_after_a_layer_of_the_target() -> None:
    target = TimedModel(draft_model(), CostTable.flat(1000.0))
    assert draft_model().num_layers == 2
    assert speed_of(target, None) == Speed(1000.0, 0.0)
    assert speed_of(target, TimedModel(draft_model(), CostTable.flat(2.0))) == Speed(1000.0, 500.0 + 20.0)


# On real models.


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> EngineBackend:
    folder = tmp_path_factory.mktemp("pair")
    config = tiny_pair(folder)
    return EngineBackend.load(config)


def wanted(text: str = "def add(self, value):\n    return", temperature: float = 0.0) -> GenerationRequest:
    return replace(request(text), temperature=temperature, priority="typing", session="editor")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_its_text_is_what_the_draft_model_says_as_a_target(
    backend: EngineBackend, tmp_path: Path, temperature: float
) -> None:
    asked = wanted(temperature=temperature)
    with_target = Worker(lambda _progress: Lent(backend), Metrics(), max_queue=4)
    with_target.start()
    told = run(with_target, replace(asked, tier="draft"))
    assert with_target.stop(DEADLINE_S)
    pair = tiny_pair(tmp_path)
    alone = EngineBackend.load(EngineConfig(model=pair.drafts[0].name, draft_model=None, engine="ar"))
    by_itself = Worker(lambda _progress: alone, Metrics(), max_queue=4)
    by_itself.start()
    expected = run(by_itself, asked)
    assert by_itself.stop(DEADLINE_S)
    assert told.text == expected.text != ""
    logprobs = [p for chunk in told.chunks for p in chunk.logprobs]
    assert logprobs == pytest.approx([p for chunk in expected.chunks for p in chunk.logprobs], abs=1e-4)
    assert told.ending.stop is StopReason.LENGTH


def test_the_draft_models_weights_are_loaded_once_with_static_trees_too(tmp_path: Path) -> None:
    grow_map = tmp_path / "pairs.json"
    grow_map.write_text('{"Successors": [[1, 2], [3], [4], [], []]}')
    config = replace(tiny_pair(tmp_path), engine="static", growmap_path=str(grow_map))
    backend = EngineBackend.load(config)
    draft_tier, slot = backend.engine.draft, backend.new_slot("target")
    assert draft_tier is not None
    [memory] = [memory for memory in slot.drafts if hasattr(memory, "cache")]
    assert memory._model is draft_tier.target  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("at_layer", [1, 4, 9, 14])
def test_a_pass_it_interrupts_goes_on_and_says_what_it_would_have_said(
    backend: EngineBackend, at_layer: int
) -> None:
    calm = Worker(lambda _progress: Lent(backend, slots=1), Metrics(), max_queue=4)
    calm.start()
    undisturbed, alone = run(calm, wanted()), run(calm, replace(wanted(), tier="draft"))
    assert calm.stop(DEADLINE_S)
    first, metrics = Receiver(), Metrics()

    def interrupt() -> None:
        worker.submit(replace(wanted(), tier="draft"), first)

    worker = Worker(lambda _progress: Disturbed(backend, at_layer, interrupt, slots=1), metrics, max_queue=4)
    worker.start()
    assert run(worker, wanted()).text == undisturbed.text
    assert first.wait().text == alone.text
    assert b"umbrella_preemptions_total 1.0" in metrics.text()
    assert worker.stop(DEADLINE_S)


def test_a_key_typed_on_costs_a_handful_of_tokens(backend: EngineBackend) -> None:
    worker = Worker(lambda _progress: Lent(backend, slots=1), Metrics(), max_queue=4)
    worker.start()
    for end in range(10, 30):
        text = "def add(self, value):\n    return self.value"[:end]
        counts = run(worker, replace(wanted(text), tier="draft", max_tokens=4)).chunks[-1].counts
        assert end == 10 or counts.prompt - counts.reused <= 6
        run(worker, replace(wanted(text + "x"), max_tokens=2))
    assert worker.stop(DEADLINE_S)
