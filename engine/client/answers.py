"""Reads what an engine answers: server-sent events, errors, its health. Pure, whoever has fetched it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from engine.client.endpoint import Endpoint
from engine.errors import (
    ContextExceeded,
    EngineGone,
    EngineUnavailable,
    ProtocolMismatch,
    RequestError,
    UnknownModel,
)
from engine.protocol import PROTOCOL_VERSION, Health, UmbrellaReply
from engine.schema import SchemaError, read

T = TypeVar("T")

_REFUSALS = {"context_length_exceeded": ContextExceeded, "model_not_found": UnknownModel}
"""OpenAI's error codes that are told apart."""
_RESTART = "Send the request again to have it started, or run `umbrella-engine status`."


class EventReader:
    """Cuts bytes as they come into the data of server-sent events; this engine sends one line of it each.

    Only newlines end a line: text may hold other characters that Python takes for ends of lines.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that `piece` completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]


@dataclass(frozen=True, slots=True)
class Answer:
    """A text; of a stream, what follows what came before it."""

    text: str
    finish_reason: str | None
    """``stop`` or ``length``; None in a stream while more follows."""
    tokens: tuple[int, ...]
    """Its ids, where the request said `return_token_ids`."""
    umbrella: UmbrellaReply | None
    """Timings and counts so far; None from a server of another make."""
    body: dict[str, Any] = field(repr=False)
    """OpenAI's object as it came, with `usage`, log-probabilities and further choices if there are any."""


@dataclass(frozen=True, slots=True)
class _Part:
    content: str | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    text: str | None = None
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Completion:
    """What is read of OpenAI's objects for completions and chats, whole and streamed."""

    choices: tuple[_Choice, ...]
    umbrella: UmbrellaReply | None = None


class AnswerReader:
    """Reads a stream of OpenAI's, as its bytes come."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._events = EventReader()
        self._is_over = False

    def feed(self, piece: bytes) -> Iterator[Answer]:
        """What `piece` completes. Raises what `refuse` does, and ProtocolMismatch."""
        for data in self._events.feed(piece):
            self._is_over = data == b"[DONE]"
            if not self._is_over:
                yield read_answer(self._endpoint, received(self._endpoint, 200, data))

    def end(self) -> None:
        """The stream is over. Raises EngineGone if it has not come to its end."""
        if not self._is_over:
            raise ended_early(self._endpoint)


def received(endpoint: Endpoint, status: int, data: bytes) -> dict[str, Any]:
    """The object that was answered. Raises what `refuse` does."""
    body = object_of(data)
    if status != 200 or "error" in body:
        refuse(endpoint, status if status != 200 else 500, data)
    return body


def read_answer(endpoint: Endpoint, body: dict[str, Any]) -> Answer:
    """The first choice of OpenAI's object; no text where it has none. Raises ProtocolMismatch."""
    found = _read(endpoint, _Completion, body, "")
    choice = found.choices[0] if found.choices else _Choice()
    said = choice.text or (choice.delta or choice.message or _Part()).content or ""
    return Answer(said, choice.finish_reason, choice.token_ids or (), found.umbrella, body)


def object_of(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` is; an empty one if it is something else."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def read_reply(endpoint: Endpoint, body: dict[str, Any]) -> UmbrellaReply:
    """Our part of an event or of an answer. Raises ProtocolMismatch."""
    return _read(endpoint, UmbrellaReply, body.get("umbrella"), "umbrella")


def read_health(endpoint: Endpoint, status: int, data: bytes) -> Health:
    """The answer to ``GET /health``. Raises what `refuse` does, and ProtocolMismatch."""
    if status != 200:
        refuse(endpoint, status, data)
    body = object_of(data)
    if body.get("protocol", PROTOCOL_VERSION) != PROTOCOL_VERSION:
        # Only the fields needed to replace it are relied on: everything else may have changed.
        body = {"state": "ready", "progress": 1.0, "package": "", "config_hash": "", "pid": 0} | {
            name: body[name] for name in ("protocol", "package", "pid") if name in body
        }
    return _read(endpoint, Health, body, "health")


def refuse(endpoint: Endpoint, status: int, data: bytes) -> NoReturn:
    """Raise what an answer of `status` means: RequestError, EngineGone or another EngineUnavailable."""
    found = object_of(data).get("error")
    error = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    who = endpoint.url or "The engine"
    message = str(error.get("message") or f"{who} answered with HTTP status {status}. {_advice(endpoint)}")
    kind = _REFUSALS.get(str(error.get("code")), RequestError if status in (400, 413, 422) else None)
    if kind is not None:
        raise kind(message, str(error.get("param") or ""))
    if status == 401:
        # Each engine makes a token of its own: the one that we had may be its predecessor's.
        raise EngineGone(_wants_token(endpoint) if endpoint.url else message)
    if status == 403 and endpoint.url:
        raise EngineUnavailable(
            f"{endpoint.url} refuses to serve this machine (HTTP status 403). An engine answers to localhost "
            "only: go through an SSH tunnel, or start it with --allow-remote and the host's name in the URL."
        )
    raise EngineUnavailable(message)


def ended_early(endpoint: Endpoint) -> EngineGone:
    """What to say of a stream without its end."""
    return EngineGone(f"The engine ended a stream early. {_advice(endpoint)}")


def no_answer(endpoint: Endpoint, error: Exception) -> EngineGone:
    """What to say where nothing of HTTP came back."""
    url, kind = endpoint.url, type(error).__name__
    problem = _tls_problem(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        why = problem.verify_message.rstrip(".")
        return EngineGone(
            f"The certificate of {url} is not trusted: {why}. Have the system trust who signed it, or "
            f"name the host that it is for in {endpoint.naming.url}."
        )
    if problem is not None:
        return EngineGone(f"TLS with {url} fails ({problem.reason or kind}). {_advice(endpoint)}")
    return EngineGone(f"No engine answers{f' at {url}' if url else ''} ({kind}). {_advice(endpoint)}")


def _read(endpoint: Endpoint, cls: type[T], data: object, where: str) -> T:
    try:
        return read(cls, data, where=where)
    except SchemaError as error:
        advice = _advice(endpoint) if endpoint.url else "Run `umbrella-engine stop` and try again."
        raise ProtocolMismatch(
            f"The engine's answer makes no sense to this version ({error}). {advice}"
        ) from error


def _advice(endpoint: Endpoint) -> str:
    if endpoint.url:
        return f"Check that an engine runs there, and that {endpoint.naming.url} is right."
    return _RESTART


def _tls_problem(error: BaseException | None) -> ssl.SSLError | None:
    """The problem of TLS that `error` comes from, if there is one."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _wants_token(endpoint: Endpoint) -> str:
    verdict = "does not accept the token" if endpoint.token else "wants a token"
    return (
        f"{endpoint.url} {verdict} (HTTP status 401). The token is in the file engine.token in its runtime "
        f"folder, a copy of which belongs in {endpoint.naming.token}."
    )
