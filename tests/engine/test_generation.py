"""The worker on real, tiny models: what serving does to a generation must not show in its text."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from engine.config import EngineConfig
from engine.errors import RequestError
from engine.generation import EngineBackend
from engine.jobs import Deliver
from engine.metrics import Metrics
from engine.model import Block, Transformer
from engine.progress import Progress
from engine.protocol import Priority, Segment, StopReason
from engine.request import CodePrompt, GenerationRequest, TextPrompt, TokenPrompt
from engine.worker import Worker
from tests.engine.fakes import DEADLINE_S, Receiver, eventually, running_engine
from tests.engine.pair import Disturbed, Lent, request, run, tiny_model, tiny_pair

CODE = """class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        self.balance += amount

    def withdraw(self, amount):
        """


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> EngineBackend:
    folder = tmp_path_factory.mktemp("pair")
    return EngineBackend.load(tiny_pair(folder))


def tokens_of(receiver: Receiver) -> tuple[str, int]:
    return receiver.text, receiver.chunks[-1].counts.generated


def test_every_kind_of_prompt_is_answered(backend: EngineBackend) -> None:
    worker = Worker(lambda _progress: Lent(backend), Metrics(), max_queue=4)
    worker.start()
    plain = request("def add(self, value):\n    return")
    for prompt in (plain.prompt, TextPrompt("def add("), TokenPrompt((5, 6, 7))):
        assert run(worker, replace(plain, prompt=prompt)).chunks[-1].counts.generated == 12
    assert worker.stop(DEADLINE_S)


@pytest.mark.parametrize("at_layer", [1, 2, 5, 9, 14, 30])
def test_a_pre_empted_generation_says_what_it_would_have_said(backend: EngineBackend, at_layer: int) -> None:
    wanted, urgent = request("def add(self, value):\n    return"), Receiver()
    calm = Worker(lambda _progress: Lent(backend), Metrics(), max_queue=4)
    calm.start()
    undisturbed = tokens_of(run(calm, wanted))
    assert calm.stop(DEADLINE_S)

    def interrupt() -> None:
        typing = replace(request("class Account:", seed=2), priority="typing")
        worker.submit(typing, urgent)

    metrics = Metrics()
    disturbed = Disturbed(backend, at_layer, interrupt)
    worker = Worker(lambda _progress: disturbed, metrics, max_queue=4)
    worker.start()
    assert tokens_of(run(worker, wanted)) == undisturbed
    assert urgent.wait().chunks[-1].counts.generated == 12
    assert b"umbrella_preemptions_total 1.0" in metrics.text()
    assert worker.stop(DEADLINE_S)


def test_turns_between_clients_change_no_text(
    backend: EngineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn a step, with penalties that look at the answer so far."""
    texts = ("def add(self, value):", "class Account:", "def add(self, other):", "    return", "pass")
    wanted = [replace(request(text, seed), client=text) for seed, text in enumerate(texts)]

    order = list[str]()

    def following(receiver: Receiver, client: str) -> Deliver:
        return lambda chunk: (order.append(client), receiver(chunk))[1]

    def answers(slots: int) -> list[tuple[str, tuple[int, ...]]]:
        worker = Worker(lambda _progress: Lent(backend, slots), Metrics(), max_queue=8)
        receivers = [Receiver() for _ in wanted]
        worker.submit_all(
            [
                (each, following(receiver, each.client))
                for each, receiver in zip(wanted, receivers, strict=True)
            ]
        )
        worker.start()
        said = [
            (each.text, tuple(token for chunk in each.chunks for token in chunk.tokens)) for each in receivers
        ]
        assert worker.stop(DEADLINE_S)
        return said

    calm = answers(slots=1)
    monkeypatch.setattr("engine.job_queue.QUANTUM_MS", 0.0)
    for slots in (3, 6):
        order.clear()
        assert answers(slots) == calm
        assert len(set(order[: slots - 1])) == slots - 1


def test_penalties_mind_the_whole_answer_wherever_it_is_gone_on_with_and_not_the_prompt(
    backend: EngineBackend,
) -> None:
    plain = replace(
        request("", max_tokens=12),
        prompt=TokenPrompt(tuple(range(1, 200))),
        temperature=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        logit_bias=tuple((token, 100.0) for token in range(100, 113)),
    )

    def said(wanted: GenerationRequest, before: Sequence[int] = ()) -> list[int]:
        """Also where its slot was taken once `before` was said."""
        prompt = backend.encode(wanted)
        text, tokens = backend.text(wanted, prompt), [*prompt.tokens, *before]
        assert not any(map(text.push, before))
        slot = backend.new_slot("target")
        steps = backend.generate(wanted, tokens, slot, text, 12 - len(before), lambda _: None)
        return [*before, *(token for step in steps for token in step.tokens)]

    once = said(replace(plain, presence_penalty=1e4))
    assert len(set(once)) == 12 > len(set(said(plain)))
    assert once[0] == said(plain)[0] in range(1, 200)
    for at in (1, 6, 11):
        assert said(replace(plain, presence_penalty=1e4), once[:at]) == once


def test_tokens_and_what_else_was_probable_come_with_the_text(backend: EngineBackend) -> None:
    worker = Worker(lambda _progress: Lent(backend), Metrics(), max_queue=4)
    worker.start()
    wanted = replace(request("", max_tokens=6), prompt=TextPrompt("def add("), temperature=0.0)
    plain = replace(wanted, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0)
    chunks = run(worker, replace(plain, top_logprobs=3)).chunks
    tokens = [token for chunk in chunks for token in chunk.tokens]
    tops = [top for chunk in chunks for top in chunk.tops]
    logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
    assert len(tokens) == len(tops) == len(logprobs) == 6
    assert [top[0] for top in tops] == list(zip(tokens, logprobs, strict=True))
    assert all(len(top) == 3 for top in tops)
    others = [
        each for each in run(worker, replace(plain, top_logprobs=3, alternatives=3)).chunks if each.index
    ]
    assert len({each.index for each in others}) == 2
    assert all(len(each.tops) == len(each.tokens) for each in others)
    assert all(len(top) == 3 for each in others for top in each.tops)
    stream = backend.engine.tokenizer.detokenizer(backend.encode(plain).tokens)
    assert "".join(map(stream.push, tokens)) == "".join(chunk.text for chunk in chunks)
    assert worker.stop(DEADLINE_S)


def test_with_end_tokens_ruled_out_a_text_goes_on(backend: EngineBackend) -> None:
    engine = replace(backend.engine, end_tokens=frozenset(range(backend.engine.tokenizer.vocab_size - 1)))
    ending = EngineBackend(engine)
    worker = Worker(lambda _progress: Lent(ending), Metrics(), max_queue=4)
    worker.start()
    wanted = replace(request("", max_tokens=5), prompt=TextPrompt("def add("))
    assert run(worker, wanted).ending.stop is StopReason.END
    went_on = run(worker, replace(wanted, ignore_end=True, logit_bias=((3, 5.0),)))
    assert went_on.ending.stop is StopReason.LENGTH
    assert {token for chunk in went_on.chunks for token in chunk.tokens} == {
        backend.engine.tokenizer.vocab_size - 1
    }
    assert worker.stop(DEADLINE_S)


@pytest.mark.parametrize("at_layer", [1, 2, 5, 9, 14, 30])
def test_an_interrupted_pass_goes_on_and_no_row_of_it_is_run_again(
    backend: EngineBackend, at_layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = Transformer.forward

    def counted(self: Transformer, block: Block, *rest: Any) -> Tensor:
        passes.append(len(block))
        return forward(self, block, *rest)

    monkeypatch.setattr(Transformer, "forward", counted)
    plain = replace(request(""), prompt=TextPrompt("def add(self, value):"), speculative=False)
    typing = Receiver()
    metrics = Metrics()
    disturbed = Disturbed(
        backend, at_layer, lambda: worker.submit(replace(plain, priority="typing"), typing) and None
    )
    worker = Worker(lambda _progress: disturbed, metrics, max_queue=4)
    worker.start()
    counts = [receiver.chunks[-1].counts for receiver in (run(worker, plain), typing.wait())]
    assert worker.stop(DEADLINE_S)
    assert len(passes) == sum(count.target_passes for count in counts) == 24
    # A job's last token is never run.
    assert sum(passes) == sum(count.prompt - count.reused + count.generated - 1 for count in counts)
    layers = 24 * backend.engine.decoder.target.num_layers
    assert f"umbrella_layers_started_total {layers}.0".encode() in metrics.text()
    assert b"umbrella_preemptions_total 1.0" in metrics.text()


@pytest.mark.parametrize("at_layer", [1, 2, 5, 9, 14, 30])
def test_a_slot_is_right_after_a_cancel_at_any_layer(backend: EngineBackend, at_layer: int) -> None:
    wanted = replace(request("def add(self, value):\n    return"), session="editor")
    calm = Worker(lambda _progress: Lent(backend), Metrics(), max_queue=4)
    calm.start()
    undisturbed = tokens_of(run(calm, wanted))
    assert calm.stop(DEADLINE_S)

    metrics, begun = Metrics(), threading.Event()

    def cancel() -> None:
        assert begun.wait(DEADLINE_S)
        worker.cancel(job)

    disturbed = Disturbed(backend, at_layer, cancel)
    worker = Worker(lambda _progress: disturbed, metrics, max_queue=4)
    worker.start()
    cancelled = Receiver()
    job = worker.submit(wanted, cancelled)
    begun.set()
    assert cancelled.ending.stop is StopReason.CANCELLED
    assert tokens_of(run(worker, wanted)) == undisturbed
    assert b"umbrella_layers_started_after_cancel_total 0.0" in metrics.text()
    assert worker.stop(DEADLINE_S)


def test_a_bias_on_a_token_that_there_is_not_is_refused(backend: EngineBackend) -> None:
    known = backend.engine.tokenizer.vocab_size
    wanted = request("def add(")
    backend.encode(replace(wanted, logit_bias=((known - 1, 1.0),)))
    with pytest.raises(RequestError, match=f"0 to {known - 1}") as caught:
        backend.encode(replace(wanted, logit_bias=((known, 1.0),)))
    assert caught.value.field == "logit_bias"


@pytest.mark.slow
def test_ten_characters_more_cost_the_tokens_that_changed_and_one() -> None:
    shipped = EngineBackend.load(EngineConfig(threads=1))
    worker = Worker(lambda _progress: shipped, Metrics(), max_queue=4)
    worker.start()
    before: tuple[int, ...] = ()
    for end in range(120, 200, 10):
        segments = (Segment("prefix", CODE[:end]), Segment("suffix", "\n\nprint(Account)\n"))
        wanted = replace(request("", max_tokens=4), prompt=CodePrompt(segments), session="editor")
        tokens = shipped.encode(wanted).tokens
        counts = run(worker, wanted).chunks[-1].counts
        pairs = zip(before, tokens, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        assert counts.prompt == len(tokens)
        assert counts.prompt - counts.reused <= len(tokens) - same + 1
        before = tokens
    assert worker.stop(DEADLINE_S)


@pytest.mark.parametrize("at_layer", [1, 4, 11])
def test_a_key_that_contradicts_what_is_fetched_ahead_costs_a_handful_of_tokens(
    backend: EngineBackend, at_layer: int
) -> None:
    def about(text: str, priority: Priority = "typing") -> GenerationRequest:
        prompt = CodePrompt((Segment("prefix", text),))
        return replace(request("", max_tokens=4), prompt=prompt, session="editor", priority=priority)

    def cut_by(text: str, more: str) -> bool:
        """Whether `more` makes the prompt too long, so that it loses its beginning, in a large step."""
        before, after = (backend.encode(about(each)).tokens for each in (text, text + more))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
        return len(list(same)) < len(before) - 50

    suggestion = " value)\n"
    typed = next(text for at in range(250, 400) if cut_by(text := (2 * CODE)[:at], suggestion))
    typing, ended = Receiver(), Receiver()
    disturbed = Disturbed(backend, 0, lambda: worker.submit(about(typed + "x"), typing) and None, slots=3)
    worker = Worker(lambda _progress: disturbed, Metrics(), max_queue=4)
    worker.start()
    run(worker, about(typed))
    disturbed._left = at_layer
    worker.submit(about(typed + suggestion, "prefetch"), ended)
    ended.wait()
    for receiver in (typing, run(worker, about(typed + "xy"))):
        counts = receiver.wait().chunks[-1].counts
        assert counts.prompt - counts.reused <= 4
    assert worker.stop(DEADLINE_S)


def test_alternatives_are_other_texts_and_cost_less_than_texts_of_their_own(tmp_path: Path) -> None:
    grow_map = tmp_path / "four_pairs.json"
    grow_map.write_text('{"Successors": [[1, 2, 3, 4], [5], [6], [7], [8], [], [], [], []]}')
    config = EngineConfig(
        model=tiny_model(tmp_path / "target", 0),
        draft_model=tiny_model(tmp_path / "draft", 1),
        engine="static",
        growmap_path=str(grow_map),
    )
    branching = EngineBackend.load(config)
    worker = Worker(lambda _progress: branching, Metrics(), max_queue=4)
    worker.start()
    wanted = replace(request("def add("), temperature=0.0, alternatives=4)
    result = run(worker, wanted)
    assert len(set(result.texts)) == 4
    assert result.texts[0] == run(worker, replace(wanted, alternatives=1)).text
    assert [ending.stop for ending in result.endings] == [StopReason.LENGTH] * 4
    for index in range(4):
        assert sum(len(chunk.logprobs) for chunk in result.chunks if chunk.index == index) >= 12
    assert result.chunks[-1].counts.generated < 4 * 12
    assert worker.stop(DEADLINE_S)


def test_alternatives_come_also_where_the_text_was_foreseen_and_leave_it_in_its_slot() -> None:
    shipped = EngineBackend.load(EngineConfig(threads=1))
    worker = Worker(lambda _progress: shipped, Metrics(), max_queue=4)
    worker.start()
    segments = (Segment("prefix", CODE[:120]),)
    plain = replace(
        request("", max_tokens=12), prompt=CodePrompt(segments), session="editor", temperature=0.0
    )
    main = run(worker, plain).text
    for _ in range(2):  # Drafted by the draft, then by the answer before.
        several = run(worker, replace(plain, alternatives=3))
        assert several.texts[0] == main
        assert len(set(several.texts)) == 3
    grown = replace(plain, prompt=CodePrompt((Segment("prefix", CODE[:120] + main[:8]),)))
    counts = run(worker, grown).chunks[-1].counts
    assert counts.prompt - counts.reused <= 3, "the text that was shown is still there"
    assert worker.stop(DEADLINE_S)


def test_a_checkpoint_cut_short_is_named_by_health(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    config = EngineConfig(model=tiny_model(folder, 0), draft_model=None)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    def load(progress: Progress) -> EngineBackend:
        return EngineBackend.load(config, progress)

    with running_engine(tmp_path / "run", config=config, load=load) as engine:
        eventually(lambda: engine.http.get("/health").json()["state"] == "failed")
        assert "model.safetensors" in engine.http.get("/health").json()["message"]
        response = engine.http.post("/infill", json={})
        assert response.status_code == 503
        assert "model.safetensors" in response.json()["error"]["message"]


def test_nothing_holds_the_models_once_they_are_unloaded_and_the_next_text_is_the_same(
    tmp_path: Path,
) -> None:
    config, models = tiny_pair(tmp_path), list[weakref.ref[Transformer]]()

    def load(progress: Progress) -> EngineBackend:
        backend = EngineBackend.load(config, progress)
        assert backend.engine.draft is not None
        models.extend(map(weakref.ref, (backend.engine.decoder.target, backend.engine.draft.target)))
        return backend

    worker = Worker(load, Metrics(), max_queue=4)
    worker.start()
    before, unloaded = run(worker, request(CODE[:120])).text, threading.Event()
    worker.unload(unloaded.set)
    assert unloaded.wait(DEADLINE_S)
    assert [model() for model in models] == [None, None]
    assert run(worker, request(CODE[:120])).text == before
    assert worker.stop(DEADLINE_S)
