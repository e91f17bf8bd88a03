"""Answers on their way to clients, whole or as server-sent events; who leaves cancels the request.

A dialect says by a `StreamForm` which events a text becomes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pipeinfer_cli.commands.serve.api.service import Service
from pipeinfer_cli.commands.serve.generation import (
    Generation,
    GenerationError,
    Outcome,
    TimeLimitError,
)
from pipeinfer_cli.commands.serve.http.errors import ApiError

Event = dict[str, str]  # data, and maybe event
Fields = dict[str, Any]
PING_S = 15  # a comment after this time without a token keeps proxies from giving up
CLIENT_LEFT = 499  # as nginx calls it; nobody sees it


class StreamForm(Protocol):
    """The events of one dialect for one answer."""

    def begin(self) -> Iterable[Event]:
        """Before the first token."""

    def text(self, piece: str) -> Iterable[Event]:
        """More of the text."""

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """The text is complete."""

    def error(self, error: ApiError) -> Iterable[Event]:
        """There is no more of it."""


def event(fields: Fields, name: str | None = None) -> Event:
    """An event with an object of JSON."""
    data = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return {"data": data} if name is None else {"event": name, "data": data}


async def whole_text(service: Service, generation: Generation, request: Request) -> str:
    """The answer's text once it is complete. ApiError if that does not happen."""
    reading = asyncio.ensure_future(_joined(generation))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise ApiError(CLIENT_LEFT, "the client has left")
        return reading.result()
    except GenerationError as error:
        raise _api_error(error) from None
    finally:
        reading.cancel()
        leaving.cancel()
        service.cancel(generation)


async def _joined(generation: Generation) -> str:
    return "".join([each async for each in generation.texts()])


async def _left(request: Request) -> None:
    """Returns when the client has left; its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _api_error(error: GenerationError) -> ApiError:
    if isinstance(error, TimeLimitError):
        return ApiError(504, "the answer takes longer than --time-limit", code="time_limit")
    return ApiError(503, f"{error}", code="draining")


class StreamedAnswer(EventSourceResponse):
    """An answer as server-sent events."""

    def __init__(self, service: Service, generation: Generation, form: StreamForm) -> None:
        super().__init__(_events(generation, form), sep="\n", ping=PING_S)
        self._service, self._generation = service, generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        try:
            await super().__call__(scope, receive, send)
        finally:  # also before the first event: `_events` may not have begun
            self._service.cancel(self._generation)


async def _events(generation: Generation, form: StreamForm) -> AsyncIterator[Event]:
    for each in form.begin():
        yield each
    try:
        async for piece in generation.texts():
            for each in form.text(piece):
                yield each
    except GenerationError as error:
        for each in form.error(_api_error(error)):
            yield each
        return
    for each in form.end(generation.outcome):
        yield each
