"""OpenAI's own Python client, unchanged, against the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from engine.config import EngineConfig
from engine.errors import CheckpointError
from tests.engine.fake_parts import END
from tests.engine.fakes import FakeBackend, Gate, RunningEngine, eventually, running_engine

MESSAGES: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[RunningEngine]:
    with running_engine(home / "openai", FakeBackend("abcdefgh" + chr(END)), with_tcp=True) as running:
        yield running


def client_of(engine: RunningEngine, token: str = "") -> openai.OpenAI:
    assert engine.tcp is not None
    key = token or engine.tcp.token
    return openai.OpenAI(base_url=f"{engine.tcp.base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(engine: RunningEngine) -> Iterator[openai.OpenAI]:
    with client_of(engine) as client:
        yield client


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


def test_a_completion_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "fake",
        "prompt": ["ab", [0, 97]],
        "max_tokens": 3,
        "n": 2,
        "seed": 1,
        "logprobs": 2,
    }
    whole = client.completions.create(**asked)
    assert [choice.text for choice in whole.choices] == ["def", "def", "cde", "cde"]
    assert whole.usage is not None
    streamed = {choice.index: "" for choice in whole.choices}
    usage = None
    for event in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = event.usage
        for choice in event.choices:
            streamed[choice.index] += choice.text
            assert choice.logprobs is not None
    assert [*streamed.values()] == [choice.text for choice in whole.choices]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 12


def test_a_chat_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "fake",
        "messages": MESSAGES,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": ["h"],
    }
    asked |= {"temperature": 1, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5, "user": "me"}
    whole = client.chat.completions.create(**asked, logit_bias={"97": -1}, max_completion_tokens=9)
    texts = [choice.message.content or "" for choice in whole.choices]
    assert [choice.finish_reason for choice in whole.choices] == ["stop"] * 2
    tokens = whole.choices[0].logprobs
    assert tokens is not None
    assert "".join(each.token for each in tokens.content or []) == texts[0]
    with client.chat.completions.stream(
        **asked, logit_bias={"97": -1}, max_completion_tokens=9, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == texts
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.total_tokens == whole.usage.total_tokens


def test_a_message_that_was_received_can_be_sent_back(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=1).choices[0].message
    again: Any = [*MESSAGES, message, {"role": "user", "content": [{"type": "text", "text": "u"}]}]
    assert client.chat.completions.create(model="fake", messages=again, max_tokens=1).choices


def test_the_asynchronous_client_streams_many_at_once(engine: RunningEngine) -> None:
    assert engine.tcp is not None
    base_url, token = f"{engine.tcp.base_url}/v1", engine.tcp.token

    async def ask(client: openai.AsyncOpenAI, prompt: str) -> str:
        stream = await client.completions.create(model="fake", prompt=prompt, max_tokens=2, stream=True)
        return "".join([event.choices[0].text async for event in stream])

    async def all_of(prompts: list[str]) -> list[str]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=token, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, prompt) for prompt in prompts))

    assert asyncio.run(all_of(["a" * n for n in range(1, 21)])) == [
        "".join("abcdefgh"[(n + 1 + i) % 9] if (n + 1 + i) % 9 < 8 else "" for i in range(2))
        if (n + 1) % 9 < 8
        else ""
        for n in range(1, 21)
    ]


def test_leaving_a_stream_cancels_all_of_its_answers(home: Path) -> None:
    gate = Gate()
    gate.step()
    with running_engine(home / "leaving", FakeBackend(in_layer=gate), with_tcp=True) as running:
        with client_of(running) as client:
            stream = client.completions.create(model="fake", prompt=["a", "b"], n=2, stream=True)
            next(stream)
            stream.close()
        eventually(lambda: running.metric("umbrella_cancels_total") == 4)
        gate.release()
        eventually(
            lambda: (
                running.metric('umbrella_requests_total{endpoint="/v1/completions",outcome="cancelled"}') == 4
            )
        )
        assert running.metric("umbrella_layers_started_after_cancel_total") == 0


# Each error has the client's own class.


def test_bad_requests_are_told_with_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="a", temperature=-1)
    error = caught.value
    assert (error.param, error.type, error.code) == ("temperature", "invalid_request_error", None)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="fake", messages=MESSAGES, tools=cast("Any", [{"type": "function"}])
        )
    assert caught.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="a" * (1 << 16))
    assert caught.value.param == "prompt"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="only fake") as caught:
        client.completions.create(model="gpt-4", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="only fake"):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)


def test_a_wrong_token_is_an_authentication_error(engine: RunningEngine) -> None:
    with client_of(engine, token="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_too_large_a_body_is_said_to_be(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="16 MB") as caught:
        client.completions.create(model="fake", prompt="a" * (17 << 20))
    assert caught.value.status_code == 413


def test_a_failure_inside_is_an_internal_server_error_before_and_within_a_stream(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
        client.completions.create(model="fake", prompt="explode")
    stream = client.completions.create(model="fake", prompt=["a", "explode"], max_tokens=2, stream=True)
    with pytest.raises(openai.APIError, match="ZeroDivisionError"):
        list(stream)


def test_a_full_queue_says_when_to_ask_again_and_a_batch_is_refused_whole(home: Path) -> None:
    gate = Gate()
    config = EngineConfig(model="fake", max_queue=2)
    with running_engine(home / "full", FakeBackend(in_layer=gate), config, with_tcp=True) as running:
        with client_of(running) as client:
            stream = running.connect("/v1/completions", {"prompt": "a", "max_tokens": 1})
            gate.wait()
            waiting = running.connect("/v1/completions", {"prompt": "b", "max_tokens": 1})
            eventually(lambda: running.metric("umbrella_queue_depth") == 1)
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="fake", prompt=["c", "d"])
            assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
            assert caught.value.response.headers["retry-after"] == "1"
            assert running.metric("umbrella_queue_depth") == 1
            with pytest.raises(openai.BadRequestError, match="max_queue") as refused:
                client.completions.create(model="fake", prompt=["c", "d", "e"])
            assert refused.value.param == "prompt"
            gate.release()
            again = client.with_options(max_retries=5).completions.create(model="fake", prompt=["c", "d"])
        assert len(again.choices) == 2
        stream.close()
        waiting.close()


def test_models_that_cannot_be_loaded_are_an_internal_server_error(home: Path) -> None:
    def load(_progress: object) -> FakeBackend:
        raise CheckpointError("model.safetensors is cut off; fetch it again")

    with running_engine(home / "broken", load=load, with_tcp=True) as running, client_of(running) as client:
        with pytest.raises(openai.InternalServerError, match="fetch it again") as caught:
            client.chat.completions.create(model="fake", messages=MESSAGES)
        assert caught.value.code == "unavailable"
