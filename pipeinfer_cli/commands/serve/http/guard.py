"""Who may ask: the API key, pages of other sites, and names that are not this machine's."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeinfer_cli.commands.serve.config import ServerOptions, is_loopback
from pipeinfer_cli.commands.serve.http.errors import ApiError

OPEN_PATHS = ("/", "/health", "/v1/health")  # need no key
SCHEME = "bearer "


class Guard:
    """ASGI middleware that refuses what may not ask.

    - With an API key: requests that do not have it.
    - Pages of other sites, which a browser on this machine shows, unless `--cors` names them.
    - On a loopback address: other names than that of this machine, as a site has them that makes
      its own name mean 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app = app
        self._key = options.api_key.encode() if options.api_key is not None else None
        self._origins: Collection[str] = options.origins
        self._checks_host = options.is_local and self._key is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])
        error = self._refusal(Headers(scope=scope), path, str(scope["method"]))
        app = self._app if error is None else error.response(path)
        await app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str, method: str) -> ApiError | None:
        host = headers.get("host", "")
        if self._checks_host and not is_this_machine(host):
            return ApiError(403, "the Host header names another machine than localhost")
        origin = headers.get("origin")
        is_other = origin is not None and urlsplit_netloc(origin) != host
        if is_other and origin not in self._origins and "*" not in self._origins:
            return ApiError(403, "pages of other sites may not ask: --cors names those that may")
        if self._key is None or path in OPEN_PATHS or method == "OPTIONS":
            return None
        if hmac.compare_digest(given_key(headers), self._key):
            return None
        return ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


def given_key(headers: Headers) -> bytes:
    """The key of a request, as OpenAI's clients and Anthropic's send it; empty if there is none."""
    authorization = headers.get("authorization", "")
    if authorization[: len(SCHEME)].lower() == SCHEME:
        return authorization[len(SCHEME) :].strip().encode("latin-1")
    return headers.get("x-api-key", "").encode("latin-1")


def is_this_machine(host: str) -> bool:
    """Whether a Host header names the machine itself, by name or loopback address."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an Origin header; empty for `null`, and for what is not a URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
