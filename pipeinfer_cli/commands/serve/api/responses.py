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
from starlette.responses import JSONResponse, Response

from pipeinfer_cli.commands.serve.api.answers import (
    Event,
    Fields,
    StreamedAnswer,
    event,
    whole_text,
)
from pipeinfer_cli.commands.serve.api.completions import ROLES
from pipeinfer_cli.commands.serve.api.schema import Count, Strict, TextPart, check_supported
from pipeinfer_cli.commands.serve.api.service import Options, Service, effort_variables
from pipeinfer_cli.commands.serve.generation import GenerationRequest, Outcome
from pipeinfer_cli.commands.serve.http.body import read_as
from pipeinfer_cli.commands.serve.http.errors import ApiError

# Keys that ask for nothing if they have one of these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
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

    input: str | Annotated[list[InputMessage], Field(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    # Supported with some values only: see NEUTRAL.
    tools: Any = None
    tool_choice: Any = None
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
    parallel_tool_calls: Any = None
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
    """The objects of one answer; it is also its StreamForm."""

    request: GenerationRequest
    body: ResponsesBody
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _pieces: list[str] = field(default_factory=list)

    def whole(self, text: str, outcome: Outcome) -> Fields:
        """The answer in one object."""
        is_cut = outcome.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        stats = outcome.stats
        return {
            **self._response(status, [self._item(status, [_part(text)])]),
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
        """See StreamForm."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response("in_progress", []))
        item = self._item("in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._text_event("response.content_part.added", part=_part(""))

    def text(self, piece: str) -> Iterable[Event]:
        """See StreamForm."""
        self._pieces.append(piece)
        yield self._text_event("response.output_text.delta", delta=piece, logprobs=[])

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """See StreamForm."""
        text = "".join(self._pieces)
        whole = self.whole(text, outcome)
        yield self._text_event("response.output_text.done", text=text, logprobs=[])
        yield self._text_event("response.content_part.done", part=_part(text))
        item = whole["output"][0]
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def error(self, error: ApiError) -> Iterable[Event]:
        """See StreamForm."""
        yield self._event("error", code=error.code, message=error.message, param=error.param)

    def _event(self, kind: str, **fields: Any) -> Event:
        return event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

    def _text_event(self, kind: str, **fields: Any) -> Event:
        where = {"item_id": f"msg_{self.id}", "output_index": 0, "content_index": 0}
        return self._event(kind, **where, **fields)

    def _item(self, status: str, content: Sequence[Fields]) -> Fields:
        return {
            "id": f"msg_{self.id}",
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
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
            "store": False,
            "temperature": sample.temperature,
            "text": {"format": TEXT_FORMAT},
            "tool_choice": "auto",
            "tools": [],
            "top_p": sample.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": None,
        }


def _part(text: str) -> Fields:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class Responses:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses."""
        body = await read_as(request, ResponsesBody)
        check_supported(body, NEUTRAL)
        if body.text and body.text.format not in (None, TEXT_FORMAT):
            raise ApiError(400, "text.format: only text is supported", param="text.format")
        service = self._service
        service.check_ready()
        variables = effort_variables({}, body.reasoning.effort if body.reasoning else None)
        prompt = await service.chat_prompt(_messages(body), variables)
        options = Options(
            n_max=body.max_output_tokens, temperature=body.temperature, top_p=body.top_p
        )
        asked = service.request(prompt, options)
        form = Form(request=asked, body=body, model=body.model or service.model_name)
        generation = service.submit(asked)
        if body.stream:
            return StreamedAnswer(service, generation, form)
        text = await whole_text(service, generation, request)
        return JSONResponse(form.whole(text, generation.outcome))


def _messages(body: ResponsesBody) -> list[dict[str, str]]:
    """The conversation as chat templates know it."""
    made = []
    if body.instructions:
        made.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*made, {"role": "user", "content": body.input}]
    for each in body.input:
        content = each.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        made.append({"role": ROLES.get(each.role, each.role), "content": text})
    return made
