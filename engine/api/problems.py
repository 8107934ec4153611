"""Errors as JSON bodies, in the shape OpenAI's and llama-server's clients know."""

from __future__ import annotations

from starlette.responses import JSONResponse

from engine.errors import RequestError, UmbrellaError


def error_body(status: int, message: str, kind: str, param: str | None = None) -> dict[str, object]:
    """``{"error": ...}``; `param` is the dotted path of the field at fault."""
    error: dict[str, object] = {"code": status, "message": message, "type": kind}
    if param is not None:
        error["param"] = param
    return {"error": error}


def status_of(error: UmbrellaError) -> int:
    """The HTTP status of one of our errors: 400 is no JSON object, 422 one that cannot be served."""
    if isinstance(error, RequestError):
        return 422 if error.field else 400
    return 503


def body_of(error: UmbrellaError) -> dict[str, object]:
    """The JSON body of one of our errors."""
    if isinstance(error, RequestError):
        return error_body(status_of(error), str(error), "invalid_request_error", error.field or None)
    return error_body(503, str(error), "unavailable_error")


def response_to(error: UmbrellaError) -> JSONResponse:
    """The answer to a request that ended in `error`."""
    return JSONResponse(body_of(error), status_of(error))
