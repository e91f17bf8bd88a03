"""Errors of requests: a status, and JSON in the shape that the client's dialect knows."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from pipeinfer_cli.log import LOG

ANTHROPIC_PATHS = "/v1/messages"
# By status: what OpenAI and Anthropic call it; all other statuses are of the first kind.
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
INVALID = "invalid_request_error"
RETRY_S = 2  # what Retry-After says


class ApiError(Exception):
    """A request cannot be answered: the message says what, which value and what to do."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_S)} if self.status in (429, 503) else {}

    def body(self, path: str) -> dict[str, object]:
        """The JSON object for a request of this path."""
        if path.startswith(ANTHROPIC_PATHS):
            kind = ANTHROPIC_TYPES.get(self.status, INVALID)
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        return {
            "error": {
                "message": self.message,
                "type": OPENAI_TYPES.get(self.status, INVALID),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, path: str) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(path), self.status, headers=self.headers)


def of_validation(error: ValidationError) -> ApiError:
    """What pydantic says about a body, in the words of OpenAI and Anthropic; the first matter."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not _is_type(part))
    if first["type"] == "extra_forbidden":
        message = f"unrecognized request argument: {where}: leave it out"
        return ApiError(400, message, param=where, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{where} is missing", param=where, code="missing_required_parameter")
    message = f"{where}: {first['msg']}" if where else str(first["msg"])
    return ApiError(400, message, param=where or None)


def _is_type(part: str | int) -> bool:
    """Whether a part of a location names one of several types, not a key."""
    return isinstance(part, str) and not part.isidentifier()


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler."""
    assert isinstance(error, ApiError)
    return error.response(request.url.path)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """The same for what Starlette finds: unknown paths, methods that a path does not have."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {
        404: f"there is nothing at {path[:100]}",
        405: f"{request.method[:20]} is not for {path[:100]}",
    }.get(error.status_code, error.detail)
    response = ApiError(error.status_code, message).response(path)
    response.headers.update(_headers(error))
    return response


def _headers(error: HTTPException) -> Mapping[str, str]:
    return error.headers or {}


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Something is wrong with this program. The error may quote the request: it is not logged."""
    LOG.error("a request to %s failed: %s", request.url.path[:100], type(error).__name__)
    return ApiError(500, "internal error: please report it").response(request.url.path)
