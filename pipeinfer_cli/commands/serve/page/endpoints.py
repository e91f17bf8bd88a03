"""The page at `/` and its stream of events: one file, and nothing from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pipeinfer_cli.commands.serve.api.answers import PING_S, Event, event
from pipeinfer_cli.commands.serve.api.service import Service

REFRESH_S = 0.1
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._html = files(__package__).joinpath("index.html").read_text(encoding="utf-8")

    async def page(self, _request: Request) -> Response:
        """GET /."""
        return HTMLResponse(self._html, headers={"Content-Security-Policy": POLICY})

    async def live(self, _request: Request) -> Response:
        """GET /live: server-sent events, several a second."""
        return EventSourceResponse(self._events(), sep="\n", ping=PING_S)

    async def _events(self) -> AsyncIterator[Event]:
        service = self._service
        number = 0
        with service.live.viewing():
            while not service.is_over:
                number, fields = service.live.since(number)
                yield event({**fields, **service.metrics.summary, "state": service.phase})
                await asyncio.sleep(REFRESH_S)
