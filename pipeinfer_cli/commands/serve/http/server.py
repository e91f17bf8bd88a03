"""The HTTP server, in a thread of its own with an event loop."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeinfer_cli.commands.serve.config import ServerOptions
from pipeinfer_cli.commands.serve.http.errors import ApiError
from pipeinfer_cli.errors import UserError

BACKLOG = 2048
MAX_HEADER_BYTES = 64 << 10
MAX_CONNECTIONS = 1024
HEADER_S = 15.0  # what a client may take to send a request's headers
KEEP_ALIVE_S = 75
CLOSE_S = 5.0  # what answers that are complete get to leave, at the end


class HttpServer:
    """Listens from the beginning; `start` answers. UserError if it cannot listen there."""

    def __init__(self, options: ServerOptions) -> None:
        self._host = options.host
        self._socket = listen(options.host, options.port)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """By which this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self, app: ASGIApp) -> None:
        """Answers from now on."""
        config = uvicorn.Config(
            app,
            http=JsonProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",  # it would log texts of requests with its errors
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(CLOSE_S),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        assert self._server is not None
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def close(self) -> None:
        """Waits until the answers that are complete have left. Twice is fine."""
        if self._server is None or self._thread is None:
            self._socket.close()
            return
        self._server.should_exit = True
        self._thread.join(2 * CLOSE_S)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError if that is not possible."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {_reason(error)}") from None
    opened = socket.socket(family, socket.SOCK_STREAM)  # not inheritable
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise UserError(f"cannot listen on {host} port {port}: {_reason(error)}") from None
    return opened


def _reason(error: OSError) -> str:
    what = error.strerror or str(error)
    if isinstance(error, socket.gaierror):
        return f"{what}: give --host an address of this machine"
    if error.errno == errno.EADDRINUSE:
        return f"{what}: give another --port, or 0 for a free one"
    return what


class JsonProtocol(H11Protocol):
    """Uvicorn's, but what is not HTTP is answered in JSON, and headers have a time limit."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(HEADER_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        is_between = self.cycle is None or self.cycle.response_complete
        has_begun = is_between and bool(self.conn.trailing_data[0])
        if not is_between:
            self._stop_timer()
        elif has_begun and self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_S, self._close_if_silent)

    def send_400_response(self, msg: str) -> None:
        """Not HTTP, or headers that are too long."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps(ApiError(400, msg).body("")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _close_if_silent(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
