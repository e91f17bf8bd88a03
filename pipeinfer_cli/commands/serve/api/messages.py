"""Anthropic's dialect: /v1/messages, translated to a conversation as chat templates know it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipeinfer_cli.commands.serve.api.answers import (
    Event,
    Fields,
    StreamedAnswer,
    event,
    whole_text,
)
from pipeinfer_cli.commands.serve.api.schema import (
    MAX_STOPS,
    Count,
    StopString,
    Strict,
    check_supported,
)
from pipeinfer_cli.commands.serve.api.service import Options, Service
from pipeinfer_cli.commands.serve.generation import GenerationRequest, Outcome
from pipeinfer_cli.commands.serve.http.body import read_as
from pipeinfer_cli.commands.serve.http.errors import ANTHROPIC_PATHS, ApiError

# Keys that ask for nothing if they have one of these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ({"type": "auto"}, {"type": "none"}),
    "thinking": ({"type": "disabled"},),
    "mcp_servers": ([],),
    "container": (),
}


class TextBlock(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str
    cache_control: Any = None
    citations: Any = None


class Message(Strict):
    """A message of a conversation."""

    role: Literal["user", "assistant"]
    content: str | list[TextBlock]


class CountBody(Strict):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Any = None
    tool_choice: Any = None
    thinking: Any = None
    mcp_servers: Any = None
    container: Any = None
    # Without effect on the text.
    cache_control: Any = None
    context_management: Any = None
    output_config: Any = None
    betas: Any = None


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Count
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    metadata: Any = None
    service_tier: Any = None
    inference_geo: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The objects of one answer; it is also its StreamForm."""

    request: GenerationRequest
    model: str
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    def whole(self, text: str, outcome: Outcome) -> Fields:
        """The answer in one object."""
        return {
            **self._message([{"type": "text", "text": text}]),
            **_stop(outcome),
            "usage": _usage(outcome),
        }

    def begin(self) -> Iterable[Event]:
        """See StreamForm."""
        usage = {
            "input_tokens": len(self.request.prompt),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        yield _event("message_start", message={**self._message([]), "usage": usage})
        block = {"type": "text", "text": ""}
        yield _event("content_block_start", index=0, content_block=block)

    def text(self, piece: str) -> Iterable[Event]:
        """See StreamForm."""
        delta = {"type": "text_delta", "text": piece}
        yield _event("content_block_delta", index=0, delta=delta)

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """See StreamForm."""
        yield _event("content_block_stop", index=0)
        yield _event("message_delta", delta=_stop(outcome), usage=_usage(outcome))
        yield _event("message_stop")

    def error(self, error: ApiError) -> Iterable[Event]:
        """See StreamForm."""
        yield event(error.body(ANTHROPIC_PATHS), "error")

    def _message(self, content: Sequence[Fields]) -> Fields:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }


def _event(kind: str, **fields: Any) -> Event:
    return event({"type": kind, **fields}, kind)


def _stop(outcome: Outcome) -> Fields:
    if outcome.stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": outcome.stop}
    reason = "max_tokens" if outcome.finish_reason == "length" else "end_turn"
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(outcome: Outcome) -> Fields:
    stats = outcome.stats
    return {
        "input_tokens": stats.n_prompt - stats.n_reused,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": stats.n_reused,
        "output_tokens": stats.n_generated,
    }


class Messages:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages."""
        body = await read_as(request, MessagesBody)
        service = self._service
        prompt = await self._prompt(body)
        options = Options(
            n_max=body.max_tokens,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            stop=body.stop_sequences,
        )
        asked = service.request(prompt, options)
        form = Form(request=asked, model=body.model)
        generation = service.submit(asked)
        if body.stream:
            return StreamedAnswer(service, generation, form)
        text = await whole_text(service, generation, request)
        return JSONResponse(form.whole(text, generation.outcome))

    async def count(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        prompt = await self._prompt(await read_as(request, CountBody))
        return JSONResponse({"input_tokens": len(prompt)})

    async def _prompt(self, body: CountBody) -> list[int]:
        check_supported(body, NEUTRAL)
        self._service.check_ready()
        messages = [{"role": each.role, "content": _text(each.content)} for each in body.messages]
        if body.system:
            messages.insert(0, {"role": "system", "content": _text(body.system)})
        return await self._service.chat_prompt(messages, {})


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
