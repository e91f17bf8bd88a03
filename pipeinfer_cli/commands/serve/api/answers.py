"""Answers on their way to clients, whole or as server-sent events; who leaves cancels the request.

A dialect says by an `AnswerForm` what a text becomes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pipeinfer_cli.commands.chat.tools.parser import Part, ToolCall, ToolParser
from pipeinfer_cli.commands.serve.api.service import Service
from pipeinfer_cli.commands.serve.api.shapes import Shape
from pipeinfer_cli.commands.serve.generation import (
    Generation,
    GenerationError,
    GenerationRequest,
    GrammarError,
    Outcome,
    TimeLimitError,
)
from pipeinfer_cli.commands.serve.http.errors import ApiError

Event = dict[str, str]  # data, and maybe event
Fields = dict[str, Any]
PING_S = 15  # a comment after this time without a token keeps proxies from giving up
CLIENT_LEFT = 499  # as nginx calls it; nobody sees it


class AnswerForm(Protocol):
    """One answer in a dialect: whole, or as events."""

    def begin(self) -> Iterable[Event]:
        """Before the first token."""

    def text(self, piece: str) -> Iterable[Event]:
        """More of the text."""

    def call(self, call: ToolCall) -> Iterable[Event]:
        """A call of a tool, whole."""

    def whole(self, parts: Sequence[Part], outcome: Outcome) -> Fields:
        """The answer in one object."""

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """The answer is complete."""

    def error(self, error: ApiError) -> Iterable[Event]:
        """There is no more of it."""


def event(fields: Fields, name: str | None = None) -> Event:
    """An event with an object of JSON."""
    data = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return {"data": data} if name is None else {"event": name, "data": data}


async def respond(
    service: Service,
    request: Request,
    asked: GenerationRequest,
    form: AnswerForm,
    shape: Shape,
    *,
    is_stream: bool,
) -> Response:
    """The answer, as the client wants it. ApiError if there is no room for the request."""
    generation = service.submit(asked)
    if is_stream:
        return StreamedAnswer(service, generation, form, shape.parser())
    parts = await _whole_answer(service, generation, request, shape.parser())
    return JSONResponse(form.whole(parts, generation.outcome))


async def _whole_answer(
    service: Service, generation: Generation, request: Request, parser: ToolParser | None
) -> list[Part]:
    """Texts and calls once the answer is complete. ApiError if that does not happen."""
    reading = asyncio.ensure_future(_joined(generation))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise ApiError(CLIENT_LEFT, "the client has left")
        text = reading.result()
    except GenerationError as error:
        raise _api_error(error) from None
    finally:
        reading.cancel()
        leaving.cancel()
        service.cancel(generation)
    return [text] if parser is None else [*parser.feed(text), *parser.finish()]


async def _joined(generation: Generation) -> str:
    return "".join([each async for each in generation.texts()])


async def _left(request: Request) -> None:
    """Returns when the client has left; its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _api_error(error: GenerationError) -> ApiError:
    if isinstance(error, TimeLimitError):
        return ApiError(504, "the answer takes longer than --time-limit", code="time_limit")
    if isinstance(error, GrammarError):
        return ApiError(400, f"{error}", code="grammar_dead_end")
    return ApiError(503, f"{error}", code="draining")


class StreamedAnswer(EventSourceResponse):
    """An answer as server-sent events."""

    def __init__(
        self,
        service: Service,
        generation: Generation,
        form: AnswerForm,
        parser: ToolParser | None,
    ) -> None:
        super().__init__(_events(generation, form, parser), sep="\n", ping=PING_S)
        self._service, self._generation = service, generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        try:
            await super().__call__(scope, receive, send)
        finally:  # also before the first event: `_events` may not have begun
            self._service.cancel(self._generation)


async def _events(
    generation: Generation, form: AnswerForm, parser: ToolParser | None
) -> AsyncIterator[Event]:
    for each in form.begin():
        yield each
    try:
        async for piece in generation.texts():
            for each in _part_events(form, [piece] if parser is None else parser.feed(piece)):
                yield each
    except GenerationError as error:
        for each in form.error(_api_error(error)):
            yield each
        return
    for each in _part_events(form, parser.finish() if parser is not None else ()):
        yield each
    for each in form.end(generation.outcome):
        yield each


def _part_events(form: AnswerForm, parts: Iterable[Part]) -> Iterable[Event]:
    for part in parts:
        yield from form.call(part) if isinstance(part, ToolCall) else form.text(part)


def text_of(parts: Sequence[Part]) -> str:
    """The answer without its calls."""
    return "".join(part for part in parts if isinstance(part, str))


def calls_of(parts: Sequence[Part]) -> list[ToolCall]:
    """The calls of an answer."""
    return [part for part in parts if isinstance(part, ToolCall)]
