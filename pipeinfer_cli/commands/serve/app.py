"""The paths of the server, and what stands before them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from pipeinfer_cli.commands.serve.api.completions import Completions
from pipeinfer_cli.commands.serve.api.info import Info
from pipeinfer_cli.commands.serve.api.messages import Messages
from pipeinfer_cli.commands.serve.api.responses import Responses
from pipeinfer_cli.commands.serve.api.service import Service
from pipeinfer_cli.commands.serve.api.shapes import Shapes
from pipeinfer_cli.commands.serve.http.errors import (
    ApiError,
    on_api_error,
    on_error,
    on_http_error,
)
from pipeinfer_cli.commands.serve.http.guard import Guard
from pipeinfer_cli.commands.serve.page.endpoints import Page

GET, POST = ["GET"], ["POST"]


def make_app(service: Service, shapes: Shapes) -> Starlette:
    """The ASGI application."""
    options = service.config.server
    info, completions = Info(service), Completions(service, shapes)
    messages, responses = Messages(service, shapes), Responses(service, shapes)
    page = Page(service)
    middleware = [Middleware(Guard, options=options)]
    if options.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(options.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        middleware.append(cors)
    return Starlette(
        routes=[
            Route("/", page.page, methods=GET),
            Route("/live", page.live, methods=GET),
            Route("/health", info.health, methods=GET),
            Route("/v1/health", info.health, methods=GET),
            Route("/metrics", info.metrics, methods=GET),
            Route("/props", info.props, methods=GET),
            Route("/v1/models", info.models, methods=GET),
            Route("/v1/models/{name:path}", info.model, methods=GET),
            Route("/tokenize", info.tokenize, methods=POST),
            Route("/detokenize", info.detokenize, methods=POST),
            Route("/v1/completions", completions.completions, methods=POST),
            Route("/v1/chat/completions", completions.chat, methods=POST),
            Route("/v1/responses", responses.responses, methods=POST),
            Route("/v1/messages", messages.messages, methods=POST),
            Route("/v1/messages/count_tokens", messages.count, methods=POST),
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            Exception: on_error,
        },
    )
