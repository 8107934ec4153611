"""What programs can ask of an engine, as pure scripts: they yield requests, and are sent what was answered.

Knows OpenAI's endpoints and UMbreLLa's `get_output`; `engine.client.programs` carries the requests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, overload

from engine.client.answers import Answer, read_answer
from engine.client.endpoint import Endpoint

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, object]]
Object = dict[str, Any]
Script = Generator[tuple[str, Object], tuple[Endpoint, Object], Any]
"""Yields a path and a body, is sent who answered and what, and returns what the caller gets."""
Whole = TypeVar("Whole")
Stream = TypeVar("Stream")
Output = TypeVar("Output")

_STREAMED: Object = {"stream": True, "stream_options": {"include_usage": True}}
_UMBRELLAS = {"max_new_tokens": "max_tokens", "topp": "top_p", "topk": "top_k"}
_NOTHING: Object = {
    "generated_text": "",
    "generated_tokens": [],
    "avg_accept_tokens": 0,
    "time_per_output_token": 0,
}


class Calls(ABC, Generic[Whole, Stream, Output]):
    """What can be asked. `options` are further fields of OpenAI's body, and ours, `umbrella`.

    Every method raises EngineGone if no engine answers or it breaks off, another EngineUnavailable if it
    cannot serve this now, and RequestError if it refuses it as it is.
    """

    @overload
    def complete(self, prompt: Prompt, *, stream: Literal[False] = ..., **options: object) -> Whole: ...
    @overload
    def complete(self, prompt: Prompt, *, stream: Literal[True], **options: object) -> Stream: ...
    def complete(self, prompt: Prompt, *, stream: bool = False, **options: object) -> Whole | Stream:
        """What follows `prompt`, which is text as it is, or token ids."""
        return self._ask("/v1/completions", {"prompt": prompt, **options}, stream=stream)

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = ..., **options: object) -> Whole: ...
    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **options: object) -> Stream: ...
    def chat(self, messages: Messages, *, stream: bool = False, **options: object) -> Whole | Stream:
        """What the assistant says to `messages`, each of which has a ``role`` and a ``content``."""
        return self._ask("/v1/chat/completions", {"messages": messages, **options}, stream=stream)

    def get_output(self, **arguments: Any) -> Output:
        """As UMbreLLa's APIClient answers: `arguments`, and what was generated.

        `context` is text whose special tokens are written out, as UMbreLLa's templates do: whatever looks
        like one is one. `input_ids` takes its place. `max_new_tokens` (128), `temperature`, `topp`, `topk`
        and `repetition_penalty` are as there; other names are fields of OpenAI's body.
        """
        return self._run(_output(arguments))

    def _ask(self, path: str, body: Object, *, stream: bool) -> Any:
        return self._stream(path, body | _STREAMED) if stream else self._run(_whole(path, body))

    @abstractmethod
    def _run(self, script: Script) -> Any: ...
    @abstractmethod
    def _stream(self, path: str, body: Object) -> Any: ...


def _whole(path: str, body: Object) -> Generator[tuple[str, Object], tuple[Endpoint, Object], Answer]:
    place, answer = yield path, body
    return read_answer(place, answer)


def _output(arguments: Object) -> Generator[tuple[str, Object], tuple[Endpoint, Object], Object]:
    sent = {_UMBRELLAS.get(name, name): value for name, value in arguments.items() if value is not None}
    sent.setdefault("max_tokens", 128)
    context, ids = sent.pop("context", ""), sent.pop("input_ids", None)
    if not (context if ids is None else ids) or sent["max_tokens"] == 0:
        return {**arguments, **_NOTHING}
    if ids is None:
        text: Object = {"content": context, "add_special": True, "parse_special": True}
        _, answer = yield "/tokenize", text
        ids = answer.get("tokens")
    place, answer = yield "/v1/completions", {**sent, "prompt": ids, "return_token_ids": True}
    answer = read_answer(place, answer)
    made: Object = {"generated_text": answer.text, "generated_tokens": [*answer.tokens]}
    if answer.umbrella and answer.umbrella.tokens.generated:
        counts, timings = answer.umbrella.tokens, answer.umbrella.timings
        made["avg_accept_tokens"] = counts.generated / max(counts.target_passes, 1)
        made["time_per_output_token"] = timings.decode_ms / counts.generated
    return {**arguments, **_NOTHING, **made}
