"""Reads a request body: at most so long, a JSON object, of the right shape."""

from __future__ import annotations

import math
import re
import secrets
import threading
from typing import TypeVar, cast

import msgspec
from starlette.requests import Request

from engine.config import EngineConfig
from engine.errors import EngineBusy, RequestError
from engine.protocol import MAX_STOPS, Tier, UmbrellaRequest
from engine.schema import SchemaError, read

T = TypeVar("T")

MAX_BODY_BYTES = 16 << 20
SMALL_BODY_BYTES = 1 << 18
MAX_LARGE_BODIES = 16
"""Larger ones that may be on their way here at a time: what has come of them is held in memory."""
MAX_VALUES = 1 << 18
"""Of JSON in one body, about: each takes Python a hundred times its share of the line, and nobody else is
served meanwhile.
"""
MAX_STOP_CHARACTERS = 4096
MAX_BIASES = 1024
"""They are added anew at every token, and everybody waits for that."""
MAX_BIAS = 100
MAX_ID_DIGITS = 10

# Every number JSON can write is read: one that is too large becomes infinite, which its field then refuses
# by name.
_decoder = msgspec.json.Decoder(float_hook=float)

_large_bodies = threading.Semaphore(MAX_LARGE_BODIES)

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class BodyTooLarge(Exception):
    """More than `MAX_BODY_BYTES` were sent. HTTP 413."""


async def read_body(request: Request, cls: type[T]) -> T:
    """The body as a `cls`. Fields it does not have are ignored, and so are those that are null.

    Raises RequestError, BodyTooLarge, or EngineBusy.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
        raise BodyTooLarge
    data = await _received(request)
    _require_few_values(data)
    try:
        value = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"The body is not valid JSON: {error}. Send one JSON object.") from error
    except RecursionError as error:
        raise RequestError("The body nests too deeply. Send one flat JSON object.") from error
    if not isinstance(value, dict):
        raise RequestError("The body must be one JSON object.")
    # Clients of OpenAI's and llama-server's send null for what they leave to the server.
    given = {name: part for name, part in cast("dict[str, object]", value).items() if part is not None}
    try:
        return read(cls, given)
    except SchemaError as error:
        raise RequestError(f"{error}.", error.field) from error


async def _received(request: Request) -> bytearray:
    data, is_large = bytearray(), False
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_BODY_BYTES:
                raise BodyTooLarge
            if len(data) > SMALL_BODY_BYTES and not is_large:
                is_large = _large_bodies.acquire(blocking=False)
                if not is_large:
                    raise EngineBusy("Too many large requests come in at once. Send this again in a moment.")
    finally:
        if is_large:
            _large_bodies.release()
    return data


def _require_few_values(data: bytearray) -> None:
    strings = (data.count(b'"') - data.count(b'\\"')) // 2
    # Text holds commas too: it is left out of the count, which takes a while, only where they are many.
    if strings > MAX_VALUES or (_parts(data) > MAX_VALUES and _parts(_STRING.sub(b"", data)) > MAX_VALUES):
        raise RequestError(f"The body holds more than {MAX_VALUES} values. Send fewer at a time.")


def _parts(data: bytes | bytearray) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def chosen_seed(seed: int | None) -> int:
    """`seed`, or a new one where it is left open."""
    return secrets.randbits(32) if seed is None or seed < 0 else seed


def client_of(user: str, ours: UmbrellaRequest) -> str:
    """Who asks: the `user` that the request names, else its session, else the request itself.

    Not the connection: programs share some of theirs and open many.
    """
    return user or ours.session or secrets.token_hex(8)


def served_tier(ours: UmbrellaRequest, config: EngineConfig) -> Tier:
    """The tier that is asked for. Raises RequestError if `config` has none such."""
    if ours.tier == "draft" and not config.drafts:
        raise RequestError(
            "umbrella.tier: this engine runs no draft model, so only the target can answer. Leave the field "
            "out, or configure draft_model, with an engine other than ar.",
            "umbrella.tier",
        )
    return ours.tier


def token_biases(value: object) -> tuple[tuple[int, float], ...]:
    """Token ids, each once, and biases of a `logit_bias`; -inf rules a token out.

    It is OpenAI's ``{"id": bias}`` or llama-server's ``[[id, bias], ...]``, where false stands for -inf.
    Raises ValueError.
    """
    if value is None:
        return ()
    if isinstance(value, dict | list) and len(cast("list[object]", value)) > MAX_BIASES:
        raise ValueError(f"logit_bias must name at most {MAX_BIASES} tokens")
    if isinstance(value, dict):
        pairs = [(_id_of(key), _bias_of(bias)) for key, bias in cast("dict[str, object]", value).items()]
    else:
        entries = cast("list[object]", value) if isinstance(value, list) else [value]
        pairs = [_pair_of(entry) for entry in entries]
    biases = dict(pairs)
    if len(biases) < len(pairs):
        raise ValueError("logit_bias must name each token once")
    return tuple(biases.items())


def _pair_of(entry: object) -> tuple[int, float]:
    pair = cast("list[object]", entry) if isinstance(entry, list) else []
    if len(pair) != 2:
        raise ValueError('logit_bias must be an object {"id": bias} or a list of pairs [id, bias]')
    token, bias = pair
    if not isinstance(token, int) or isinstance(token, bool) or token < 0:
        raise ValueError("logit_bias must name tokens by their ids; text in place of an id is not supported")
    return token, -math.inf if bias is False else _bias_of(bias)


def _id_of(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= MAX_ID_DIGITS):
        raise ValueError('logit_bias must name tokens by their ids, as in {"15043": 1.5}')
    return int(key)


def _bias_of(bias: object) -> float:
    # Written so that NaN fails.
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not -MAX_BIAS <= bias <= MAX_BIAS:
        raise ValueError(f"logit_bias must hold numbers between {-MAX_BIAS} and {MAX_BIAS}")
    return float(bias)


def require_stops(stop: str | tuple[str, ...] | None) -> None:
    """For a ``__post_init__``: raise ValueError unless the `stop` can be looked for at every token."""
    strings = as_strings(stop)
    if "" in strings:
        raise ValueError("stop must not hold an empty string")
    if len(strings) > MAX_STOPS:
        raise ValueError(f"stop must hold at most {MAX_STOPS} strings")
    if any(len(string) > MAX_STOP_CHARACTERS for string in strings):
        raise ValueError(f"stop must hold strings of at most {MAX_STOP_CHARACTERS} characters")


def as_strings(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Stop strings, however they were sent."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else stop
