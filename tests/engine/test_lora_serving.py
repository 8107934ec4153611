"""Adapters while serving: no text depends on what else was asked for, nor on when an adapter came or went."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.config_tables import AdapterName
from engine.decode import Decoder
from engine.errors import CheckpointError, UmbrellaError, UnknownModel
from engine.generation import EngineBackend
from engine.lora.adapter import Adapter
from engine.metrics import Metrics
from engine.policy import PlainPolicy
from engine.progress import Progress
from engine.request import GenerationRequest
from engine.sampling import SamplingParams
from engine.slot import Slot
from engine.slots import SlotPool
from engine.worker import Worker
from tests.engine.bench import REQUEST, of
from tests.engine.fake_parts import FakeSlot
from tests.engine.fakes import DEADLINE_S, FakeBackend, Gate, Receiver, eventually
from tests.engine.lora import write_adapter
from tests.engine.pair import Disturbed, Lent, request, run, tiny_pair
from tests.engine.scripted import (
    CONTEXT,
    GREEDY,
    PROMPT,
    VOCABULARY,
    exact_target,
    shipped,
    static,
    tokens_of,
)
from tests.engine.scripted import run as decode
from tests.engine.tiny import write_llama

# PEFT reads a property that transformers warns about.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SAMPLED = SamplingParams(temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=5)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter | None, ...]:
    """None, and two adapters for `exact_target`."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed in (1, 2):
        model = write_llama(folder, seed=0, scale=3.0, vocab_size=VOCABULARY, num_hidden_layers=2)
        write_adapter(folder / str(seed), model, seed=seed)
    return None, *(exact_target().read_adapter(folder / str(seed)) for seed in (1, 2))


def said(
    adapter: Adapter | None, prompt: tuple[int, ...], params: SamplingParams, decoder: Decoder | None = None
) -> list[int]:
    """The text in a fresh slot, decoded plainly unless there is a `decoder`."""
    decoder = decoder or Decoder(exact_target(), PlainPolicy(), CONTEXT)
    slot = decoder.new_slot()
    slot.use(adapter)
    return tokens_of(decode(decoder, slot, prompt, params, max_tokens=12))


@pytest.mark.parametrize("policy", [shipped, static])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_speculation_changes_no_text_of_an_adapter(
    params: SamplingParams, policy: Callable[[], object], adapters: tuple[Adapter | None, ...]
) -> None:
    decoder = Decoder(exact_target(), policy(), CONTEXT)  # pyright: ignore[reportArgumentType]
    texts = [said(adapter, PROMPT, params, decoder) for adapter in adapters]
    assert texts == [said(adapter, PROMPT, params) for adapter in adapters]
    assert len({tuple(text) for text in texts}) == 3, "each says something else"


@cache
def said_plainly(adapter: Adapter | None, prompt: tuple[int, ...]) -> list[int]:
    return said(adapter, prompt, SAMPLED)[:3]


PROMPTS = (PROMPT, (*PROMPT[:6], 1, 2), (*PROMPT, 5, 6))


@given(
    asked=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, len(PROMPTS) - 1), st.sampled_from(["", "a", "b"])),
        min_size=2,
        max_size=8,
    )
)
@settings(max_examples=25)
def test_no_order_of_requests_lets_one_adapters_keys_into_anothers_text(
    asked: list[tuple[int, int, str]], adapters: tuple[Adapter | None, ...]
) -> None:
    @cache
    def expected(adapter: int, prompt: int) -> list[int]:
        return said(adapters[adapter], PROMPTS[prompt], SAMPLED)

    decoder = Decoder(exact_target(), shipped(), CONTEXT)
    pool = SlotPool[Slot](2, decoder.new_slot)
    for adapter, prompt, session in asked:
        with pool.lend(session, PROMPTS[prompt], adapters[adapter]) as slot:
            text = tokens_of(decode(decoder, slot, PROMPTS[prompt], SAMPLED, max_tokens=3))
        assert text == said_plainly(adapters[adapter], PROMPTS[prompt])


def test_the_same_adapter_reuses_keys_and_another_none(adapters: tuple[Adapter | None, ...]) -> None:
    decoder = Decoder(exact_target(), PlainPolicy(), CONTEXT)
    pool = SlotPool[Slot](2, decoder.new_slot)
    reused: list[int] = []
    for adapter in (adapters[1], adapters[1], adapters[2], None, adapters[1]):
        with pool.lend("", PROMPT, adapter) as slot:
            reused.append(decode(decoder, slot, max_tokens=1)[-1].counts.reused)
    assert reused == [0, len(PROMPT) - 1, 0, 0, 0], "the last one's slot went to the third"


# Behind a worker, with a real pair.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineBackend, Path]:
    """A backend without adapters, and a folder with two for its target."""
    folder = tmp_path_factory.mktemp("pair")
    config = tiny_pair(folder)
    backend = EngineBackend.load(config)
    vocabulary = backend.engine.tokenizer.vocab_size
    for seed in (1, 2):
        twin = write_llama(folder / "twin", seed=0, scale=3.0, vocab_size=vocabulary, eos_token_id=None)
        write_adapter(folder / str(seed), twin, seed=seed)
    return backend, folder


@pytest.fixture
def worker(pair: tuple[EngineBackend, Path]) -> Generator[Worker[Slot]]:
    """One that has both adapters, as "one" and "two"."""
    backend, folder = pair
    named = (AdapterName("one", str(folder / "1")), AdapterName("two", str(folder / "2")))
    worker = Worker(lambda _progress: Lent(backend), Metrics(), max_queue=9, adapters=named)
    worker.start()
    yield worker
    assert worker.stop(DEADLINE_S)


def ask(adapter: str, text: str = "def add(self, value):\n    return") -> GenerationRequest:
    return replace(request(text), adapter=adapter)


def wait(begin: Callable[[Callable[[UmbrellaError | None], None]], None]) -> UmbrellaError | None:
    """What an action of the worker's ended with."""
    ended: list[UmbrellaError | None] = []
    begin(ended.append)
    eventually(lambda: bool(ended))
    return ended[0]


def test_two_adapters_and_the_base_in_one_batch_say_what_each_says_alone(worker: Worker[Slot]) -> None:
    names = ["one", "two", "", "two", "one"]
    batch = [(ask(name), Receiver()) for name in names]
    worker.submit_all(batch)
    texts = [receiver.wait().text for _, receiver in batch]
    assert texts == [run(worker, replace(ask(name), speculative=False)).text for name in names]
    assert len(set(texts)) == 3


def test_loading_and_replacing_while_a_generation_runs_changes_nothing_of_it(
    pair: tuple[EngineBackend, Path], worker: Worker[Slot]
) -> None:
    backend, folder = pair
    calm = [run(worker, ask(name)).text for name in ("one", "two")]
    ended: list[UmbrellaError | None] = []

    def replace_one() -> None:
        disturbed.load_adapter("one", str(folder / "1"))
        second.load_adapter("one", str(folder / "2"), ended.append)

    disturbed = Disturbed(backend, 5, replace_one)
    second = Worker(lambda _progress: disturbed, Metrics(), max_queue=4)
    second.start()
    assert wait(lambda then: second.load_adapter("one", str(folder / "1"), then)) is None
    assert run(second, ask("one")).text == calm[0], "with what it began with"
    eventually(lambda: ended == [None])
    assert run(second, ask("one")).text == calm[1], "and without the keys of the one that had the name before"
    assert second.adapters == {"one": str(folder / "2")}
    assert second.stop(DEADLINE_S)


def test_the_draft_tier_answers_without_an_adapter(worker: Worker[Slot]) -> None:
    quick = replace(ask("one"), tier="draft")
    assert run(worker, quick).text == run(worker, replace(quick, adapter="")).text


def test_an_adapter_of_another_shape_is_told_of_and_changes_nothing(
    worker: Worker[Slot], tmp_path: Path
) -> None:
    write_adapter(tmp_path / "wide", write_llama(tmp_path, hidden_size=32))
    before = dict(worker.adapters)
    error = wait(lambda then: worker.load_adapter("wide", str(tmp_path / "wide"), then))
    assert isinstance(error, CheckpointError)
    assert "ask for" in str(error)
    assert worker.adapters == before
    assert isinstance(run_to_error(worker, ask("wide")), UnknownModel)


def run_to_error(worker: Worker[Slot], asked: GenerationRequest) -> UmbrellaError | None:
    receiver = Receiver()
    worker.submit(asked, receiver)
    return receiver.wait().error


# What comes and goes, with a fake target.


def fake_worker(
    backend: FakeBackend, *named: AdapterName, load: Callable[[Progress], FakeBackend] | None = None
) -> Worker[FakeSlot]:
    worker = Worker(load or (lambda _progress: backend), Metrics(), max_queue=9, adapters=named)
    worker.start()
    return worker


def test_whoever_waits_for_an_adapter_that_is_dropped_is_told_and_whoever_runs_goes_on() -> None:
    gate = Gate()
    worker = fake_worker(FakeBackend(in_layer=gate), AdapterName("x", "xyz"))
    running, waiting, other = Receiver(), Receiver(), Receiver()
    worker.submit(replace(REQUEST, adapter="x"), running)
    gate.wait()
    worker.submit(replace(of("prefetch"), adapter="x"), waiting)
    worker.submit(of("prefetch"), other)
    ended: list[UmbrellaError | None] = []
    worker.drop_adapter("x", ended.append)
    assert worker.adapters == {}
    gate.release()
    assert set(running.wait().text) == set("xyz")
    assert isinstance(waiting.wait().error, UnknownModel)
    assert set(other.wait().text).isdisjoint("xyz")
    assert ended == [None]
    error = wait(lambda then: worker.drop_adapter("x", then))
    assert isinstance(error, UnknownModel)
    assert worker.stop(DEADLINE_S)


def test_adapters_come_back_with_the_models_and_one_that_has_gone_is_left_out() -> None:
    loaded: list[FakeBackend] = []

    def load(_progress: Progress) -> FakeBackend:
        loaded.append(FakeBackend())
        return loaded[-1]

    worker = fake_worker(FakeBackend(), AdapterName("a", "first"), load=load)
    assert wait(lambda then: worker.load_adapter("b", "second", then)) is None
    unloaded: list[bool] = []
    worker.unload(lambda: unloaded.append(True))
    eventually(lambda: worker.state == "unloaded")
    assert worker.adapters == {"a": "first", "b": "second"}, "known while the models are away"
    assert wait(lambda then: worker.drop_adapter("a", then)) is None
    assert len(loaded) == 1, "nothing is loaded only to be forgotten"
    receiver = Receiver()
    worker.submit(replace(REQUEST, adapter="b"), receiver)
    assert set(receiver.wait().text) <= set("second")
    assert loaded[1].adapters.keys() == {"b"}
    worker.unload(lambda: None)
    eventually(lambda: worker.state == "unloaded")
    worker.adapters = {"b": "broken", "c": "third"}
    assert wait(lambda then: worker.load_adapter("d", "fourth", then)) is None
    assert worker.adapters == {"c": "third", "d": "fourth"}
    assert worker.state == "ready"
    assert worker.stop(DEADLINE_S)


def test_a_configured_adapter_that_cannot_be_used_is_a_failure_to_load_that_says_so() -> None:
    backend = FakeBackend()
    worker = fake_worker(backend, AdapterName("x", "broken/x"))
    eventually(lambda: worker.state == "failed")
    assert "broken/x is no LoRA adapter" in worker.message
    assert backend.is_closed
    error = wait(lambda then: worker.load_adapter("y", "fine", then))
    assert "broken/x" in str(error)
    assert worker.stop(DEADLINE_S)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"default_adapter": "x"}, "default_adapter must be one of adapters: there are none"),
        (
            {"adapters": (AdapterName("x", "1"), AdapterName("x", "2"))},
            "adapters must each have another name",
        ),
        ({"adapters": (AdapterName("fake", "1"),)}, "adapters must not have a model's name, as 'fake' has"),
    ],
)
def test_what_is_wrong_with_a_configurations_adapters_is_said(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(EngineConfig(model="fake"), **changes)  # pyright: ignore[reportArgumentType]
