"""Reads a request body: at most so long, a JSON object, of the right shape."""

from __future__ import annotations

import secrets
from typing import TypeVar, cast

import msgspec
from starlette.requests import Request

from engine.errors import RequestError
from engine.schema import SchemaError, read

T = TypeVar("T")

MAX_BODY_BYTES = 16 << 20


class BodyTooLarge(Exception):
    """More than `MAX_BODY_BYTES` were sent. HTTP 413."""


async def read_body(request: Request, cls: type[T]) -> T:
    """The body as a `cls`. Fields it does not have are ignored, and so are those that are null.

    Raises RequestError or BodyTooLarge.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise BodyTooLarge
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
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


def chosen_seed(seed: int | None) -> int:
    """`seed`, or a new one where it is left open."""
    return secrets.randbits(32) if seed is None or seed < 0 else seed


def as_strings(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Stop strings, however they were sent."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else stop
