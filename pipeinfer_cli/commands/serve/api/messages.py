"""Anthropic's dialect: /v1/messages, translated to a conversation as chat templates know it."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipeinfer_cli.commands.chat.tools.definitions import ToolUse
from pipeinfer_cli.commands.chat.tools.parser import Part, ToolCall
from pipeinfer_cli.commands.serve.api.answers import (
    Event,
    Fields,
    event,
    respond,
)
from pipeinfer_cli.commands.serve.api.schema import (
    MAX_STOPS,
    Count,
    StopString,
    Strict,
    check_supported,
    joined,
)
from pipeinfer_cli.commands.serve.api.service import Options, Service
from pipeinfer_cli.commands.serve.api.shapes import Shapes, call_id, tool_use
from pipeinfer_cli.commands.serve.generation import GenerationRequest, Outcome
from pipeinfer_cli.commands.serve.http.body import read_as
from pipeinfer_cli.commands.serve.http.errors import ANTHROPIC_PATHS, ApiError

# Keys that ask for nothing if they have one of these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
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


class ToolUseBlock(Strict):
    """A call of a tool in an answer."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Any = None
    caller: Any = None


class ToolResultBlock(Strict):
    """What a call has returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: Any = None


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class Message(Strict):
    """A message of a conversation."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolDefinition(Strict):
    """A function; tools that the server would run itself are not supported."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: Any = None
    strict: Any = None
    input_examples: Any = None


class ToolChoice(Strict):
    """Whether tools may, must or must not be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountBody(Strict):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
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
    """The objects of one answer; its AnswerForm."""

    request: GenerationRequest
    model: str
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    _kinds: list[str] = field(default_factory=list)  # of a stream's blocks, so far

    def whole(self, parts: Sequence[Part], outcome: Outcome) -> Fields:
        """The answer in one object."""
        blocks = [_block(part) for part in parts] or [_block("")]
        return {
            **self._message(blocks),
            **_stop([each["type"] for each in blocks], outcome),
            "usage": _usage(outcome),
        }

    def begin(self) -> Iterable[Event]:
        """See AnswerForm."""
        usage = {
            "input_tokens": len(self.request.prompt),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        yield _event("message_start", message={**self._message([]), "usage": usage})

    def text(self, piece: str) -> Iterable[Event]:
        """See AnswerForm."""
        if self._kinds[-1:] != ["text"]:
            yield from self._begin_block(_block(""))
        yield self._delta(type="text_delta", text=piece)

    def call(self, call: ToolCall) -> Iterable[Event]:
        """See AnswerForm."""
        yield from self._begin_block({**_block(call), "input": {}})
        yield self._delta(type="input_json_delta", partial_json=call.arguments)

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """See AnswerForm."""
        if not self._kinds:
            yield from self._begin_block(_block(""))
        yield from self._end_block()
        yield _event("message_delta", delta=_stop(self._kinds, outcome), usage=_usage(outcome))
        yield _event("message_stop")

    def error(self, error: ApiError) -> Iterable[Event]:
        """See AnswerForm."""
        yield event(error.body(ANTHROPIC_PATHS), "error")

    def _begin_block(self, block: Fields) -> Iterable[Event]:
        if self._kinds:
            yield from self._end_block()
        yield _event("content_block_start", index=len(self._kinds), content_block=block)
        self._kinds.append(block["type"])

    def _delta(self, **delta: str) -> Event:
        return _event("content_block_delta", index=len(self._kinds) - 1, delta=delta)

    def _end_block(self) -> Iterable[Event]:
        yield _event("content_block_stop", index=len(self._kinds) - 1)

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


def _block(part: Part) -> Fields:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    arguments = json.loads(part.arguments)
    return {"type": "tool_use", "id": call_id(), "name": part.name, "input": arguments}


def _stop(kinds: Sequence[str], outcome: Outcome) -> Fields:
    if outcome.stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": outcome.stop}
    reason = "tool_use" if "tool_use" in kinds else "end_turn"
    reason = "max_tokens" if outcome.finish_reason == "length" else reason
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

    def __init__(self, service: Service, shapes: Shapes) -> None:
        self._service, self._shapes = service, shapes

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages."""
        body = await read_as(request, MessagesBody)
        service = self._service
        use = _tool_use(body)
        shape = self._shapes.of(None, use)
        prompt = await self._prompt(body, use)
        options = Options(
            n_max=body.max_tokens,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            stop=body.stop_sequences,
        )
        asked = await self._shapes.constrained(service.request(prompt, options), shape)
        form = Form(request=asked, model=body.model)
        return await respond(service, request, asked, form, shape, is_stream=bool(body.stream))

    async def count(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        body = await read_as(request, CountBody)
        use = _tool_use(body)
        self._shapes.of(None, use)  # says what is wrong
        prompt = await self._prompt(body, use)
        return JSONResponse({"input_tokens": len(prompt)})

    async def _prompt(self, body: CountBody, use: ToolUse) -> list[int]:
        check_supported(body, NEUTRAL)
        self._service.check_ready()
        messages = [made for each in body.messages for made in _messages(each)]
        if body.system:
            messages.insert(0, {"role": "system", "content": joined(body.system)})
        return await self._service.chat_prompt(messages, {}, use)


def _tool_use(body: CountBody) -> ToolUse:
    tools = [
        {
            "type": "function",
            "function": {
                "name": each.name,
                "description": each.description,
                "parameters": each.input_schema,
            },
        }
        for each in body.tools or ()
    ]
    asked = body.tool_choice
    if asked is None:
        return tool_use(tools, None)
    choice = {
        "any": "required",
        "tool": {"type": "function", "function": {"name": asked.name}},
    }.get(asked.type, asked.type)
    return tool_use(tools, choice, parallel=not asked.disable_parallel_tool_use)


def _messages(message: Message) -> Iterator[Fields]:
    """A message as chat templates know it; results of calls are messages of their own."""
    if isinstance(message.content, str) or not message.content:
        yield {"role": message.role, "content": message.content or ""}
        return
    for is_result, group in itertools.groupby(
        message.content, lambda block: isinstance(block, ToolResultBlock)
    ):
        blocks = list(group)
        if is_result:
            yield from (_result(each) for each in blocks if isinstance(each, ToolResultBlock))
            continue
        text = joined([each for each in blocks if isinstance(each, TextBlock)])
        calls = [
            {
                "id": each.id,
                "type": "function",
                "function": {"name": each.name, "arguments": each.input},
            }
            for each in blocks
            if isinstance(each, ToolUseBlock)
        ]
        made: Fields = {"role": message.role, "content": text}
        yield {**made, "tool_calls": calls} if calls else made


def _result(block: ToolResultBlock) -> Fields:
    return {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": joined(block.content),
    }
