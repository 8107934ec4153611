"""What servers of several kinds are asked, and what is made of their answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.jobs import Chunk
from engine.prompt import BuiltPrompt
from engine.protocol import StopReason
from engine.remote.answer import RemoteAnswer
from engine.remote.wire import Event, EventLines, Garbage, Kind, body_of
from engine.request import GenerationRequest
from tests.engine.fake_parts import FakeVocabulary
from tests.engine.remote.scripted import asked, event


def body(kind: Kind, **fields: Any) -> dict[str, object]:
    return body_of(asked(**fields), [1, 2], 20, model="m", kind=kind, ends={9, 4})


def test_whoever_knows_our_fields_is_told_all_of_them_and_nobody_else() -> None:
    unknown = body("other", temperature=0.5, top_p=0.9, min_p=0.1, top_k=5, repetition_penalty=1.2)
    assert set(unknown) == {
        *("model", "prompt", "max_tokens", "temperature", "top_p", "stream", "stream_options", "seed")
    }
    vllm = body("vllm", min_p=0.1, repetition_penalty=1.2)
    assert vllm["stop_token_ids"] == [4, 9]
    assert (vllm["top_k"], vllm["min_p"], vllm["repetition_penalty"]) == (-1, 0.1, 1.2)
    assert "stop_token_ids" not in body("vllm", ignore_end=True)
    assert body("llamacpp", repetition_penalty=1.2)["repeat_penalty"] == 1.2
    assert body("umbrella-lsp", priority="chat")["umbrella"] == {
        "priority": "chat",
        "session": "",
        "speculative": True,
    }


def test_biases_are_what_json_and_openai_allow() -> None:
    sent = body("other", logit_bias=((3, -math.inf), (5, 2.5)))
    assert sent["logit_bias"] == {"3": -100, "5": 2.5}
    assert json.loads(json.dumps(sent)) == sent


@given(st.lists(st.text(), max_size=8), st.integers(1, 30), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n"]))
def test_events_are_the_same_however_bytes_arrive(texts: list[str], size: int, end: bytes) -> None:
    data = (
        b": hello"
        + end
        + b"".join(event(text).replace(b"\n\n", end) for text in texts)
        + b"data: [DONE]"
        + end
    )
    lines = EventLines()

    found = [e for at in range(0, len(data), size) for e in lines.feed(data[at : at + size])]

    assert [e.choices[0].text for e in found if e is not None] == texts
    assert found[-1] is None


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_garbage(data: bytes) -> None:
    try:
        for found in EventLines().feed(b"data: " + data + b"\n"):
            assert found is None or isinstance(found, Event)
    except Garbage:
        pass


def chunks(request: GenerationRequest, *events: bytes) -> list[Chunk]:
    lines = EventLines()
    answer = RemoteAnswer(request, BuiltPrompt((1, 2)), FakeVocabulary(), 20, 0.0)
    taken = [answer.take(e, 1.0) for data in events for e in lines.feed(data) if e is not None]
    return [*(chunk for chunk in taken if chunk is not None), answer.end(2.0)]


OPENAI = {
    "tokens": ["a", "b"],
    "token_logprobs": [-1, -2.0],
    "top_logprobs": [{"a": -1, "x": -3}, {"y": -1, "b": -2}],
}
VLLM = {
    "tokens": ["token_id:97", "token_id:98"],
    "token_logprobs": [-1.0, -2.0],
    "top_logprobs": [{"token_id:97": -1.0, "token_id:120": -3}, {"token_id:121": -1, "token_id:98": -2}],
}
LLAMACPP = {
    "content": [
        {
            "id": 97,
            "token": "a",
            "logprob": -1,
            "top_logprobs": [{"id": 120, "logprob": -3}, {"id": 97, "logprob": -1}],
        },
        {
            "id": 98,
            "token": "b",
            "logprob": -2,
            "top_logprobs": [{"id": 121, "logprob": -1}, {"id": 98, "logprob": -2}],
        },
    ]
}


@pytest.mark.parametrize("logprobs", [OPENAI, VLLM, LLAMACPP], ids=["openai", "vllm", "llamacpp"])
def test_log_probabilities_are_read_in_every_shape(logprobs: dict[str, Any]) -> None:
    first, _ = chunks(asked(top_logprobs=2), event("ab", "stop", logprobs=logprobs))

    assert first.tokens == (97, 98)
    assert first.logprobs == (-1.0, -2.0)
    assert first.offsets == (0, 1)
    assert first.tops == (((97, -1.0), (120, -3.0)), ((121, -1.0), (98, -2.0)))


def test_without_being_asked_for_no_others_are_told() -> None:
    first, _ = chunks(asked(), event("ab", logprobs=OPENAI))
    assert first.tokens == (97, 98)
    assert first.tops == ()


@pytest.mark.parametrize(
    "logprobs",
    [
        {},
        {"tokens": ["a"], "token_logprobs": []},
        {"tokens": ["a", "b"], "token_logprobs": [-1.0, None]},
        {"tokens": ["ab", "b"], "token_logprobs": [-1.0, -2.0]},
        {"tokens": ["token_id:999999", "b"], "token_logprobs": [-1.0, -2.0]},
    ],
)
def test_what_is_not_known_of_every_token_is_told_of_none(logprobs: dict[str, Any]) -> None:
    first, _ = chunks(asked(), event("ab", logprobs=logprobs))
    assert first.text == "ab"
    assert (first.tokens, first.logprobs, first.offsets) == ((), (), ())


def test_the_servers_own_counts_are_believed() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
    counted = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"

    *_, last = chunks(asked(), event("abc"), event("", "length"), counted)

    assert (last.counts.prompt, last.counts.reused, last.counts.generated) == (7, 5, 3)
    assert last.ending is not None
    assert last.ending.stop is StopReason.LENGTH
