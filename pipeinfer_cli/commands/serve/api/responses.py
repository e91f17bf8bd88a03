"""OpenAI's newer dialect, /v1/responses, without what a server would have to remember."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from pipeinfer_cli.commands.chat.tools.definitions import ToolUse
from pipeinfer_cli.commands.chat.tools.parser import Part, ToolCall
from pipeinfer_cli.commands.serve.api.answers import (
    Event,
    Fields,
    event,
    respond,
)
from pipeinfer_cli.commands.serve.api.completions import ROLES
from pipeinfer_cli.commands.serve.api.schema import Count, Strict, TextPart, check_supported, joined
from pipeinfer_cli.commands.serve.api.service import Options, Service, effort_variables
from pipeinfer_cli.commands.serve.api.shapes import (
    Shapes,
    call_id,
    response_format_source,
    tool_use,
)
from pipeinfer_cli.commands.serve.generation import GenerationRequest, Outcome
from pipeinfer_cli.commands.serve.http.body import read_as
from pipeinfer_cli.commands.serve.http.errors import ApiError
from pipeinfer_cli.runtime.grammar.source import GrammarSource

# Keys that ask for nothing if they have one of these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
    "top_logprobs": (0,),
    "max_tool_calls": (),
    "prompt": (),
}
TEXT_FORMAT = {"type": "text"}


class InputMessage(Strict):
    """An item of the input."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    id: Any = None
    status: Any = None
    phase: Any = None


class FunctionCall(Strict):
    """A call that an earlier answer has made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: Any = None
    status: Any = None


class FunctionCallOutput(Strict):
    """What a call has returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextPart]
    id: Any = None
    status: Any = None


class FunctionTool(Strict):
    """A function; tools that the server would run itself are not supported."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Any = None


class NamedTool(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class Reasoning(Strict):
    """How much the model shall think."""

    effort: str | None = None
    summary: Any = None
    generate_summary: Any = None


class TextOptions(Strict):
    """The form of the text."""

    format: Any = None
    verbosity: Any = None


class ResponsesBody(Strict):
    """POST /v1/responses."""

    input: (
        str | Annotated[list[InputMessage | FunctionCall | FunctionCallOutput], Field(min_length=1)]
    )
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    # Supported with some values only: see NEUTRAL.
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    top_logprobs: Any = None
    max_tool_calls: Any = None
    prompt: Any = None
    # Without effect on the text.
    stream_options: Any = None
    include: Any = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    truncation: Any = None
    user: Any = None
    client_metadata: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The objects of one answer; its AnswerForm."""

    request: GenerationRequest
    body: ResponsesBody
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _pieces: list[str] = field(default_factory=list)  # of the text that is being streamed
    _items: list[Fields] = field(default_factory=list)  # of a stream, that are complete

    def whole(self, parts: Sequence[Part], outcome: Outcome) -> Fields:
        """The answer in one object."""
        status = _status(outcome)
        items = [
            self._message(index, status, [_part(part)])
            if isinstance(part, str)
            else _call_item(part)
            for index, part in enumerate(parts or [""])
        ]
        return self._complete(items, outcome)

    def _complete(self, items: Sequence[Fields], outcome: Outcome) -> Fields:
        is_cut = outcome.finish_reason == "length"
        stats = outcome.stats
        return {
            **self._response(_status(outcome), items),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": {
                "input_tokens": stats.n_prompt,
                "input_tokens_details": {"cached_tokens": stats.n_reused},
                "output_tokens": stats.n_generated,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": stats.n_prompt + stats.n_generated,
            },
        }

    def begin(self) -> Iterable[Event]:
        """See AnswerForm."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response("in_progress", []))

    def text(self, piece: str) -> Iterable[Event]:
        """See AnswerForm."""
        if not self._pieces:
            yield self._item_event("added", self._message(self._index, "in_progress", []))
            yield self._text_event("response.content_part.added", part=_part(""))
        self._pieces.append(piece)
        yield self._text_event("response.output_text.delta", delta=piece, logprobs=[])

    def call(self, call: ToolCall) -> Iterable[Event]:
        """See AnswerForm."""
        if self._pieces:
            yield from self._end_text("completed")
        item = _call_item(call)
        where = {"item_id": item["id"], "output_index": self._index}
        begun = {**item, "status": "in_progress", "arguments": ""}
        yield self._item_event("added", begun)
        kind = "response.function_call_arguments"
        yield self._event(f"{kind}.delta", **where, delta=call.arguments)
        yield self._event(f"{kind}.done", **where, name=call.name, arguments=call.arguments)
        yield self._item_event("done", item)
        self._items.append(item)

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """See AnswerForm."""
        if not self._pieces and not self._items:
            yield from self.text("")
        if self._pieces:
            yield from self._end_text(_status(outcome))
        whole = self._complete(self._items, outcome)
        yield self._event(f"response.{whole['status']}", response=whole)

    def error(self, error: ApiError) -> Iterable[Event]:
        """See AnswerForm."""
        yield self._event("error", code=error.code, message=error.message, param=error.param)

    def _end_text(self, status: str) -> Iterable[Event]:
        part = _part("".join(self._pieces))
        yield self._text_event("response.output_text.done", text=part["text"], logprobs=[])
        yield self._text_event("response.content_part.done", part=part)
        item = self._message(self._index, status, [part])
        yield self._item_event("done", item)
        self._items.append(item)
        self._pieces.clear()

    @property
    def _index(self) -> int:
        """Of the item that is being streamed."""
        return len(self._items)

    def _item_event(self, what: str, item: Fields) -> Event:
        return self._event(f"response.output_item.{what}", output_index=self._index, item=item)

    def _event(self, kind: str, **fields: Any) -> Event:
        return event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

    def _text_event(self, kind: str, **fields: Any) -> Event:
        index = self._index
        where = {"item_id": self._message_id(index), "output_index": index, "content_index": 0}
        return self._event(kind, **where, **fields)

    def _message_id(self, index: int) -> str:
        return f"msg_{self.id}{index or ''}"

    def _message(self, index: int, status: str, content: Sequence[Fields]) -> Fields:
        return {
            "id": self._message_id(index),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _response(self, status: str, output: Sequence[Fields]) -> Fields:
        body, sample = self.body, self.request.sample
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
            "store": False,
            "temperature": sample.temperature,
            "text": {"format": (body.text and body.text.format) or TEXT_FORMAT},
            "tool_choice": _dumped(body.tool_choice) or "auto",
            "tools": [_dumped(each) for each in body.tools or ()],
            "top_p": sample.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": None,
        }


def _part(text: str) -> Fields:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call: ToolCall) -> Fields:
    made = call_id()
    return {
        "id": f"fc_{made}",
        "type": "function_call",
        "status": "completed",
        "call_id": made,
        "name": call.name,
        "arguments": call.arguments,
    }


def _status(outcome: Outcome) -> str:
    return "incomplete" if outcome.finish_reason == "length" else "completed"


def _dumped(value: FunctionTool | NamedTool | str | None) -> Any:
    return value.model_dump() if isinstance(value, Strict) else value


class Responses:
    """The endpoint."""

    def __init__(self, service: Service, shapes: Shapes) -> None:
        self._service, self._shapes = service, shapes

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses."""
        body = await read_as(request, ResponsesBody)
        check_supported(body, NEUTRAL)
        service, use = self._service, _tool_use(body)
        service.check_ready()
        shape = self._shapes.of(_source(body), use)
        variables = effort_variables({}, body.reasoning.effort if body.reasoning else None)
        prompt = await service.chat_prompt(_messages(body), variables, use)
        options = Options(
            n_max=body.max_output_tokens, temperature=body.temperature, top_p=body.top_p
        )
        asked = await self._shapes.constrained(service.request(prompt, options), shape)
        form = Form(request=asked, body=body, model=body.model or service.model_name)
        return await respond(service, request, asked, form, shape, is_stream=bool(body.stream))


def _source(body: ResponsesBody) -> GrammarSource | None:
    """The grammar of the text's format, whose fields have no object of their own here."""
    form = body.text.format if body.text else None
    if form is None:
        return None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": form}
    return response_format_source(form, "text.format")


def _tool_use(body: ResponsesBody) -> ToolUse:
    tools = [
        {"type": "function", "function": each.model_dump(exclude={"type"})}
        for each in body.tools or ()
    ]
    choice: Any = body.tool_choice
    if isinstance(choice, NamedTool):
        choice = {"type": "function", "function": {"name": choice.name}}
    return tool_use(tools, choice, parallel=body.parallel_tool_calls)


def _messages(body: ResponsesBody) -> list[Fields]:
    """The conversation as chat templates know it. Calls in a row are those of one answer."""
    made: list[Fields] = []
    if body.instructions:
        made.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*made, {"role": "user", "content": body.input}]
    for each in body.input:
        if isinstance(each, FunctionCall):
            if not made or made[-1]["role"] != "assistant":
                made.append({"role": "assistant", "content": ""})
            function = {"name": each.name, "arguments": each.arguments}
            call = {"id": each.call_id, "type": "function", "function": function}
            made[-1].setdefault("tool_calls", []).append(call)
        elif isinstance(each, FunctionCallOutput):
            text = joined(each.output)
            made.append({"role": "tool", "tool_call_id": each.call_id, "content": text})
        else:
            made.append({"role": ROLES.get(each.role, each.role), "content": joined(each.content)})
    return made
