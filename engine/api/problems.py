"""What went wrong, in the words of the API that was asked: OpenAI's, TGI's, or llama-server's and ours."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import JSONResponse

from engine.errors import ContextExceeded, EngineBusy, RequestError, UmbrellaError, UnknownModel

TGI_PATHS = ("/", "/generate", "/generate_stream", "/info")
_TGI_ERRORS = {
    "invalid_request_error": (422, "validation"),
    "overloaded_error": (429, "overloaded"),
    "unavailable_error": (424, "generation"),
}
"""TGI's status and `error_type` of our kinds."""

RETRY_AFTER_S = 1
"""Seconds after which a busy engine may be asked again: about what a short answer takes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error of HTTP, in no API's words yet."""

    status: int
    """422 is a JSON object that cannot be served, 400 none at all; OpenAI calls both 400, and TGI 422."""
    message: str
    kind: str = "invalid_request_error"
    """OpenAI's and llama-server's `type`."""
    param: str = ""
    """The dotted path of the field at fault, or ''."""
    code: str = ""
    """OpenAI's `code`, or ''."""
    headers: tuple[tuple[str, str], ...] = ()

    def status_at(self, path: str) -> int:
        """The HTTP status for who asked `path`."""
        if path.startswith("/v1/"):
            return 400 if self.status == 422 else self.status
        return self._in_tgi[0] if path in TGI_PATHS else self.status

    def body_at(self, path: str) -> dict[str, object]:
        """The JSON body for who asked `path`."""
        if path in TGI_PATHS:
            return {"error": self.message, "error_type": self._in_tgi[1]}
        error: dict[str, object] = {"message": self.message, "type": self.kind}
        if path.startswith("/v1/"):
            return {"error": {**error, "param": self.param or None, "code": self.code or None}}
        if self.param:
            error["param"] = self.param
        return {"error": {"code": self.status, **error}}

    def response(self, path: str) -> JSONResponse:
        """The answer to who asked `path`."""
        return JSONResponse(self.body_at(path), self.status_at(path), dict(self.headers))

    @property
    def _in_tgi(self) -> tuple[int, str]:
        return _TGI_ERRORS.get(self.kind, (self.status, self.kind))


def problem_of(error: UmbrellaError) -> Problem:
    """What one of our errors is in HTTP."""
    message = str(error)
    if isinstance(error, UnknownModel):
        return Problem(404, message, param=error.field, code="model_not_found")
    if isinstance(error, RequestError):
        code = "context_length_exceeded" if isinstance(error, ContextExceeded) else ""
        return Problem(422 if error.field else 400, message, param=error.field, code=code)
    if isinstance(error, EngineBusy):
        again = (("Retry-After", str(RETRY_AFTER_S)),)
        return Problem(503, message, "overloaded_error", code="overloaded", headers=again)
    return Problem(503, message, "unavailable_error", code="unavailable")
