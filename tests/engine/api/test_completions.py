"""OpenAI's ``/v1/completions``, as it is written on the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.api.choices import best
from engine.api.completions import CompletionBody, to_requests
from engine.api.logprobs import completion_logprobs, written
from engine.config import EngineConfig
from engine.jobs import Chunk, Ending
from engine.protocol import StopReason, Timings, TokenCounts, UmbrellaRequest
from tests.engine.fake_parts import END, FakeBranch, FakeVocabulary
from tests.engine.fakes import FakeBackend, RunningEngine, error_of, events_of, running_engine

CONFIG = EngineConfig(model="fake")
SNIPPET = {"kind": "snippet", "text": "xxxx"}


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    with running_engine(home / "completions", FakeBackend("abcdefgh" + chr(END))) as running:
        yield running


def ask(engine: RunningEngine, **body: object) -> dict:
    response = engine.http.post("/v1/completions", json={"max_tokens": 3} | body)
    assert response.status_code == 200, response.text
    return response.json()


def stream(engine: RunningEngine, **body: object) -> list[dict]:
    response = engine.http.post("/v1/completions", json={"max_tokens": 3, "stream": True} | body)
    assert response.text.endswith("data: [DONE]\n\n")
    return events_of(response)


def texts(answer: dict) -> list[str]:
    assert [choice["index"] for choice in answer["choices"]] == [*range(len(answer["choices"]))]
    return [choice["text"] for choice in answer["choices"]]


def test_an_answer_is_in_openais_words_with_ours_beside(engine: RunningEngine) -> None:
    answer = ask(engine, model="fake", prompt="ab", stop=["zzz"])
    assert (answer["object"], answer["model"]) == ("text_completion", "fake")
    assert answer["choices"] == [{"index": 0, "text": "def", "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] | {"prompt_tokens_details": 0} == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": 0,
    }
    assert answer["umbrella"]["tokens"]["generated"] == 3


@pytest.mark.parametrize("prompt", ["ab", [0, 97, 98], [[0, 97, 98]], ["ab"]])
def test_a_prompt_is_text_or_ids_or_a_list_of_one(engine: RunningEngine, prompt: object) -> None:
    assert texts(ask(engine, prompt=prompt)) == ["def"]


def test_prompts_of_both_kinds_are_answered_in_order_and_their_usage_adds_up(engine: RunningEngine) -> None:
    answer = ask(engine, prompt=["a", [0, 1, 2], "abc"], n=2)
    assert texts(answer) == ["cde", "cde", "def", "def", "efg", "efg"]
    assert answer["usage"]["prompt_tokens"] == 2 + 3 + 4
    assert answer["usage"]["completion_tokens"] == answer["umbrella"]["tokens"]["generated"] == 18


def test_streamed_choices_add_up_to_the_whole_ones_and_end_with_usage(engine: RunningEngine) -> None:
    body = {"prompt": ["a", "abc"], "n": 2, "logprobs": 1, "return_token_ids": True}
    whole = ask(engine, **body)
    *events, last = stream(engine, **body, stream_options={"include_usage": True})
    assert len({event["id"] for event in (*events, last)}) == 1
    assert (last["choices"], last["usage"] | {"prompt_tokens_details": 0}) == (
        [],
        whole["usage"] | {"prompt_tokens_details": 0},
    )
    assert all(event["usage"] is None and "umbrella" in event for event in events)
    assert last["umbrella"]["tokens"]["generated"] == whole["umbrella"]["tokens"]["generated"] == 12
    for wanted in whole["choices"]:
        told = [c for event in events for c in event["choices"] if c["index"] == wanted["index"]]
        assert "".join(choice["text"] for choice in told) == wanted["text"]
        assert [token for choice in told for token in choice["token_ids"]] == wanted["token_ids"]
        tokens = [token for choice in told for token in choice["logprobs"]["tokens"]]
        assert tokens == wanted["logprobs"]["tokens"]
        assert [choice["finish_reason"] for choice in told] == [None, None, "length"]
    assert "usage" not in stream(engine, prompt="a")[0]


def test_logprobs_are_of_the_tokens_that_wrote_the_text(engine: RunningEngine) -> None:
    answer = ask(engine, prompt="abcd", logprobs=2, max_tokens=9)
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("fgh", "stop")
    assert choice["logprobs"] == {
        "tokens": ["f", "g", "h"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{"f": -0.5, "g": -1.5}, {"g": -0.5, "h": -1.5}, {"h": -0.5, "i": -1.5}],
        "text_offset": [0, 1, 2],
    }
    [choice] = ask(engine, prompt="abcd", logprobs=0)["choices"]
    assert (choice["logprobs"]["top_logprobs"], len(choice["logprobs"]["tokens"])) == (None, 3)


def test_logprobs_of_a_stop_string_are_not_told(engine: RunningEngine) -> None:
    body = {"prompt": "ab", "logprobs": 0, "stop": "f"}
    whole = ask(engine, **body)["choices"][0]
    told = [event["choices"][0] for event in stream(engine, **body)]
    assert (whole["text"], whole["logprobs"]["tokens"]) == ("de", ["d", "e"])
    assert [token for choice in told for token in choice["logprobs"]["tokens"]] == ["d", "e"]


def test_a_token_that_is_part_of_a_character_is_written_as_bytes() -> None:
    assert written("é".encode()) == "é"
    assert written("é".encode()[:1]) == "bytes:\\xc3"


def test_the_token_that_was_chosen_is_always_among_the_most_probable() -> None:
    tops = (((98, -0.1),),)
    chunk = Chunk("a", (-3.0,), TokenCounts(), Timings(), offsets=(0,), tokens=(97,), tops=tops)
    told = completion_logprobs(chunk, 1, FakeVocabulary(), 1)
    assert (told["top_logprobs"], told["text_offset"]) == ([{"b": -0.1, "a": -3.0}], [0])
    # A server elsewhere may not tell ids.
    assert completion_logprobs(replace(chunk, tokens=(), tops=()), 1, FakeVocabulary(), 1)["tokens"] == []


@pytest.mark.parametrize("prompt", ["ab", [97, 98]])
def test_echo_puts_the_prompt_before_its_text_once(engine: RunningEngine, prompt: object) -> None:
    whole = texts(ask(engine, prompt=prompt, echo=True, n=2))
    assert {text[:2] for text in whole} == {"ab"}
    events = stream(engine, prompt=prompt, echo=True, n=2)
    for index, wanted in enumerate(whole):
        told = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in told) == wanted


def test_a_suffix_makes_a_completion_a_code_prompt(engine: RunningEngine) -> None:
    answer = ask(engine, prompt="ab", suffix="yz")
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [2, 2]


def test_segments_make_a_completion_a_code_prompt_and_keep_their_indices(engine: RunningEngine) -> None:
    answer = ask(engine, prompt="ab", umbrella={"segments": [SNIPPET]})
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [4, 2]
    answer = ask(engine, prompt="ab", umbrella={"segments": [{"kind": "suffix", "text": "xyz"}, SNIPPET]})
    assert [fate["tokens"] for fate in answer["umbrella"]["segments"]] == [3, 4, 2]


def test_alternatives_are_choices(home: Path) -> None:
    branches = [FakeBranch.of(1, "X;", -1.0), FakeBranch.of(2, "Y", -2.0)]
    body = {"stop": ";", "umbrella": {"n": 3}, "prompt": "ab"}
    with running_engine(home / "branching", FakeBackend(branches=branches)) as running:
        answer = ask(running, **body)
        told = [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]]
        assert told == [(0, "def", "length"), (1, "dX", "stop"), (2, "deY", "length")]
        assert answer["usage"]["completion_tokens"] == 6
        *events, usage = stream(running, **body, stream_options={"include_usage": True})
    assert [event["choices"][0]["index"] for event in events] == [0, 0, 0, 1, 2]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 6)


def test_an_answer_that_fails_fails_all_of_them(engine: RunningEngine) -> None:
    response = engine.http.post("/v1/completions", json={"prompt": ["a", "explode"], "max_tokens": 3})
    assert (response.status_code, error_of(response)["type"]) == (503, "unavailable_error")
    *events, last = stream(engine, prompt=["a", "explode"])
    assert "".join(event["choices"][0]["text"] for event in events) == "cde"
    assert "error" in last


# What becomes of a body.


def asked(**fields: object) -> list:
    return to_requests(CompletionBody("a", **fields), CONFIG)  # pyright: ignore[reportArgumentType]


def test_choices_have_seeds_of_their_own_that_follow_from_the_requests() -> None:
    assert [request.seed for request in asked(n=3, seed=7)] == [7, 8, 9]
    highest = (1 << 63) - 1
    assert [request.seed for request in asked(n=2, seed=highest)] == [highest, 0]
    assert len({request.seed for request in (*asked(), *asked(), *asked(seed=-1))}) == 3


def test_a_batch_is_one_client_and_no_typing() -> None:
    batch = to_requests(CompletionBody(["a", "b"]), CONFIG)
    assert len({request.client for request in batch}) == 1
    assert {request.client for request in batch} != {request.client for request in asked()}
    assert [request.client for request in asked(user="me", umbrella=UmbrellaRequest(session="s"))] == ["me"]
    assert [request.client for request in asked(umbrella=UmbrellaRequest(session="s"))] == ["s"]
    assert {request.priority for request in batch} == {"chat"}
    assert asked(umbrella=UmbrellaRequest(priority="typing"))[0].priority == "typing"


def test_every_field_reaches_the_generation() -> None:
    [request] = asked(
        temperature=0.5,
        top_p=0.4,
        top_k=3,
        min_p=0.2,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=2.0,
        max_tokens=9,
        stop="x",
        seed=4,
        logit_bias={"5": 1.5},
        logprobs=4,
        ignore_eos=True,
    )
    assert (request.temperature, request.top_p, request.top_k, request.min_p) == (0.5, 0.4, 3, 0.2)
    assert (request.repetition_penalty, request.presence_penalty, request.frequency_penalty) == (1.5, -1, 2)
    assert (request.max_tokens, request.stop.strings, request.seed) == (9, ("x",), 4)
    assert (request.logit_bias, request.top_logprobs, request.ignore_end) == (((5, 1.5),), 4, True)
    [request] = asked(
        umbrella=UmbrellaRequest(session="s", workspace="w", tier="draft", n=5, speculative=False)
    )
    assert (request.session, request.workspace, request.tier) == ("s", "w", "draft")
    assert (request.alternatives, request.speculative) == (5, False)
    assert asked()[0].max_tokens == CONFIG.generation_length


@pytest.mark.parametrize(
    ("bias", "known"),
    [({"5": 1.5, "7": -100}, ((5, 1.5), (7, -100.0))), ([[5, 1.5], [7, False]], ((5, 1.5), (7, -math.inf)))],
)
def test_a_logit_bias_is_understood_in_either_dialects_words(bias: object, known: object) -> None:
    assert asked(logit_bias=bias)[0].logit_bias == known


def test_the_best_of_several_are_the_most_probable_a_token() -> None:
    def answered(*logprobs: float) -> list[Chunk]:
        return [Chunk("", logprobs, TokenCounts(), Timings(), Ending(StopReason.END))]

    jobs = [answered(-3), answered(-1, -1), answered(-2), answered(-1), answered(-9), answered()]
    assert best(jobs, tried=3, kept=2) == [1, 2, 5, 3]
    assert best(jobs, tried=6, kept=1) == [5]
    assert best(jobs, tried=2, kept=2) == [0, 1, 2, 3, 4, 5]
