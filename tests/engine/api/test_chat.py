"""OpenAI's ``/v1/chat/completions``, as it is written on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.api.chat import WHAT_IS_LEFT, ChatBody, ChatMessage, Part, to_requests
from engine.config import EngineConfig
from engine.generation import EngineBackend
from engine.protocol import UmbrellaRequest
from engine.request import ChatPrompt, Message
from tests.engine.fake_parts import END
from tests.engine.fakes import FakeBackend, RunningEngine, error_of, events_of, running_engine

CONFIG = EngineConfig(model="fake")
HI = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    # Such a chat has 21 tokens.
    with running_engine(home / "chat", FakeBackend("abcdefgh" + chr(END))) as running:
        yield running


def ask(engine: RunningEngine, path: str = "/v1/chat/completions", **body: object) -> dict:
    response = engine.http.post(path, json={"messages": [HI]} | body)
    assert response.status_code == 200, response.text
    return response.json()


def stream(engine: RunningEngine, **body: object) -> list[dict]:
    response = engine.http.post("/v1/chat/completions", json={"messages": [HI], "stream": True} | body)
    assert response.text.endswith("data: [DONE]\n\n")
    return events_of(response)


def test_an_answer_is_the_assistants_message(engine: RunningEngine) -> None:
    answer = ask(engine)
    assert (answer["object"], answer["model"]) == ("chat.completion", "fake")
    message = {"role": "assistant", "content": "defgh", "refusal": None}
    assert answer["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["prompt_tokens"] == 21
    assert answer["umbrella"]["tokens"]["generated"] == answer["usage"]["completion_tokens"] == 6


def test_each_choice_of_a_stream_begins_with_its_role_and_usage_comes_last(engine: RunningEngine) -> None:
    *events, last = stream(engine, n=2, max_tokens=2, stream_options={"include_usage": True})
    told = [
        (choice["index"], choice["delta"], choice["finish_reason"]) for e in events for choice in e["choices"]
    ]
    assert sorted(told, key=lambda each: each[0]) == [
        entry
        for index in (0, 1)
        for entry in (
            (index, {"role": "assistant", "content": "d"}, None),
            (index, {"content": "e"}, "length"),
        )
    ]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
    assert last["usage"]["prompt_tokens"] == 21
    assert {event["object"] for event in (*events, last)} == {"chat.completion.chunk"}


def test_logprobs_have_bytes_and_the_most_probable(engine: RunningEngine) -> None:
    [choice] = ask(engine, logprobs=True, top_logprobs=1, max_tokens=1, return_token_ids=True)["choices"]
    entry = {"token": "d", "logprob": -0.5, "bytes": [100]}
    assert choice["logprobs"] == {"content": [{**entry, "top_logprobs": [entry]}], "refusal": None}
    assert choice["token_ids"] == [100]


def test_llama_servers_clients_find_it_too(engine: RunningEngine) -> None:
    warm: dict[str, Any] = {
        "n_predict": 0,
        "umbrella": {"session": "vim"},
        "id_slot": 0,
        "samplers": [],
        "model": "",
    }
    answer = ask(engine, "/chat/completions", **warm)
    assert (answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]) == ("", 0)
    warm["n_predict"] = -1
    again = ask(engine, **warm)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 21
    assert again["choices"][0]["message"]["content"] == "defgh"


def prompt_of(*messages: ChatMessage) -> ChatPrompt:
    [request] = to_requests(ChatBody(messages), CONFIG)
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt


def test_messages_become_turns_of_three_roles() -> None:
    parts = (Part("text", "a"), Part("text", "b"))
    prompt = prompt_of(
        ChatMessage("developer", "d"),
        ChatMessage("user", parts),
        ChatMessage("assistant"),
        ChatMessage("user", ""),
    )
    wanted = [("system", "d"), ("user", "ab"), ("assistant", ""), ("user", "")]
    assert prompt == ChatPrompt(tuple(Message(role, content) for role, content in wanted))


def test_an_assistants_last_message_goes_on() -> None:
    assert prompt_of(ChatMessage("user", "a"), ChatMessage("assistant", "b")).is_open


def test_the_length_is_the_newest_name_there_is_or_what_is_left() -> None:
    def length(**fields: Any) -> int:
        [request] = to_requests(ChatBody((ChatMessage("user", "a"),), **fields), CONFIG)
        return request.max_tokens

    assert length(max_tokens=3, max_completion_tokens=5, n_predict=7) == 5
    assert length(max_tokens=3, n_predict=7) == 3
    assert length(n_predict=0) == 0
    assert length(n_predict=-1) == length() == WHAT_IS_LEFT


def test_a_chat_is_no_typing_and_its_session_is_a_client() -> None:
    [request] = to_requests(
        ChatBody((ChatMessage("user", "a"),), umbrella=UmbrellaRequest(session="s")), CONFIG
    )
    assert (request.priority, request.client, request.session) == ("chat", "s", "s")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [HI, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{**HI, "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n_predict": -2}, "n_predict"),
        ({"umbrella": {"segments": [{"kind": "snippet", "text": "x"}]}}, "umbrella.segments"),
        ({"umbrella": {"n": 2}, "n": 2}, "umbrella.n"),
        ({"n": 65}, "n"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_a_chat_cannot_have_is_refused_by_name(engine: RunningEngine, body: dict, param: str) -> None:
    response = engine.http.post("/v1/chat/completions", json={"messages": [HI], **body})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", None)
    assert param.rsplit(".", 1)[-1].split("[", maxsplit=1)[0] in error["message"]


def test_empty_lists_of_tools_ask_for_nothing(engine: RunningEngine) -> None:
    assert ask(engine, tools=[], response_format={"type": "text"}, modalities=["text"])["choices"]


# With real models.


@pytest.fixture(scope="module")
def bundled(home: Path) -> Iterator[RunningEngine]:
    config = EngineConfig(chat_template="meta-llama3", device="cpu")
    load = EngineBackend.load
    with running_engine(home / "bundled", config=config, load=lambda told: load(config, told)) as running:
        yield running


def test_a_turn_reuses_the_chat_before_it(bundled: RunningEngine) -> None:
    first = [{"role": "user", "content": "def add(a, b):"}]
    body: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "umbrella": {"session": "turns"}}
    answer = ask(bundled, messages=first, **body)
    said = {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
    usage = ask(bundled, messages=[*first, said, HI], **body)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= answer["usage"]["prompt_tokens"]


def test_choices_differ_and_the_same_seed_gives_them_again(bundled: RunningEngine) -> None:
    def said() -> list[str]:
        answer = ask(bundled, n=3, seed=5, temperature=1.5, max_tokens=6)
        return [choice["message"]["content"] for choice in answer["choices"]]

    assert len({*said()}) == 3
    assert said() == said()


def test_too_long_a_chat_has_openais_code(bundled: RunningEngine) -> None:
    messages = [{"role": "user", "content": "value = value\n" * 1000}]
    response = bundled.http.post("/v1/chat/completions", json={"messages": messages})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (
        400,
        "context_length_exceeded",
        "messages",
    )
