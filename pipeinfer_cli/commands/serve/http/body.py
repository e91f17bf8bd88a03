"""The bodies of requests: within limits of size and time, and as checked values."""

from __future__ import annotations

from typing import TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from pipeinfer_cli.commands.serve.http.errors import ApiError, of_validation

MAX_BODY_BYTES = 16 << 20
BODY_S = 30.0  # what a client may take to send one
Body = TypeVar("Body", bound=BaseModel)


async def read_as(request: Request, model: type[Body]) -> Body:
    """A request's body as this model. ApiError if it is too large, too slow, or not that."""
    data = await _read(request)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise of_validation(error) from None


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) > len(str(MAX_BODY_BYTES)):
        raise _too_large()
    if length.isascii() and length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    data = bytearray()
    try:
        with anyio.fail_after(BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_S:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "the client has left") from None
    return bytes(data)


def _too_large() -> ApiError:
    return ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
