"""OpenAI's two older dialects: /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pipeinfer_cli.commands.chat.tools.parser import Part, ToolCall
from pipeinfer_cli.commands.serve.api.answers import (
    Event,
    Fields,
    calls_of,
    event,
    respond,
    text_of,
)
from pipeinfer_cli.commands.serve.api.schema import (
    SERVER_NEUTRAL,
    ChatBody,
    Common,
    CompletionBody,
    Message,
    check_supported,
    joined,
)
from pipeinfer_cli.commands.serve.api.service import Options, Service, effort_variables
from pipeinfer_cli.commands.serve.api.shapes import Shape, Shapes, call_id, source_of, tool_use
from pipeinfer_cli.commands.serve.generation import GenerationRequest, Outcome
from pipeinfer_cli.commands.serve.http.body import read_as
from pipeinfer_cli.commands.serve.http.errors import ApiError

DONE: Event = {"data": "[DONE]"}
# Chat templates know one name for what OpenAI calls by two.
ROLES: Mapping[str, str] = {"developer": "system"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The objects of one answer; its AnswerForm."""

    service: Service
    request: GenerationRequest
    model: str
    is_chat: bool
    has_usage: bool  # in a stream
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    _calls: list[ToolCall] = field(default_factory=list)  # of a stream, so far

    def whole(self, parts: Sequence[Part], outcome: Outcome) -> Fields:
        """The answer in one object."""
        choice: Fields = {"index": 0}
        text, calls = text_of(parts), calls_of(parts)
        if not self.is_chat:
            choice["text"] = text
        elif calls:
            called = [_call(each) for each in calls]
            message = {"role": "assistant", "content": text or None, "refusal": None}
            choice["message"] = {**message, "tool_calls": called}
        else:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        choice.update(logprobs=None, finish_reason=_finish_reason(calls, outcome))
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._fields(kind, [choice]), "usage": usage(outcome)}

    def begin(self) -> Iterable[Event]:
        """See AnswerForm."""
        if self.is_chat:
            yield self._chunk({"role": "assistant", "content": ""})

    def text(self, piece: str) -> Iterable[Event]:
        """See AnswerForm."""
        yield self._chunk({"content": piece} if self.is_chat else piece)

    def call(self, call: ToolCall) -> Iterable[Event]:
        """See AnswerForm."""
        yield self._chunk({"tool_calls": [{"index": len(self._calls), **_call(call)}]})
        self._calls.append(call)

    def end(self, outcome: Outcome) -> Iterable[Event]:
        """See AnswerForm."""
        yield self._chunk({} if self.is_chat else "", _finish_reason(self._calls, outcome))
        if self.has_usage:
            yield event({**self._fields(self._chunk_kind, []), "usage": usage(outcome)})
        yield DONE

    def error(self, error: ApiError) -> Iterable[Event]:
        """See AnswerForm."""
        yield event(error.body(""))

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(self, content: Fields | str, finish_reason: str | None = None) -> Event:
        name = "delta" if self.is_chat else "text"
        choice = {
            "index": 0,
            name: content,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        fields = self._fields(self._chunk_kind, [choice])
        return event({**fields, "usage": None} if self.has_usage else fields)

    def _fields(self, kind: str, choices: Sequence[Fields]) -> Fields:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        fields: Fields = {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": self.service.fingerprint,
        }
        if self.request.sample.temperature > 0:  # so that the text can be had again
            fields["seed"] = self.request.sample.seed
        return fields


def _call(call: ToolCall) -> Fields:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(), "type": "function", "function": function}


def _finish_reason(calls: Sequence[ToolCall], outcome: Outcome) -> str:
    return "tool_calls" if calls and outcome.finish_reason == "stop" else outcome.finish_reason


def usage(outcome: Outcome) -> Fields:
    """Tokens of prompt and text."""
    stats = outcome.stats
    return {
        "prompt_tokens": stats.n_prompt,
        "completion_tokens": stats.n_generated,
        "total_tokens": stats.n_prompt + stats.n_generated,
        "prompt_tokens_details": {"cached_tokens": stats.n_reused},
        "completion_tokens_details": {
            "accepted_prediction_tokens": stats.n_accepted,
            "rejected_prediction_tokens": stats.n_drafted - stats.n_accepted,
        },
    }


def options_of(body: Common, n_max: int | None) -> Options:
    """What a body says of its answer."""
    return Options(
        n_max=n_max,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        seed=body.seed,
        stop=[body.stop] if isinstance(body.stop, str) else body.stop,
        stop_tokens=body.stop_token_ids or (),
        ignore_eos=body.ignore_eos,
    )


class Completions:
    """The endpoints."""

    def __init__(self, service: Service, shapes: Shapes) -> None:
        self._service, self._shapes = service, shapes

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await read_as(request, CompletionBody)
        check_supported(body, SERVER_NEUTRAL)
        self._service.check_ready()
        shape = self._shapes.of(source_of(body))
        prompt = await self._prompt(body.prompt)
        options = options_of(body, body.max_tokens)
        return await self._answer(request, body, prompt, options, shape, is_chat=False)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await read_as(request, ChatBody)
        check_supported(body, SERVER_NEUTRAL)
        self._service.check_ready()
        n_max = body.max_completion_tokens or body.max_tokens
        variables = effort_variables(body.chat_template_kwargs, body.reasoning_effort)
        use = tool_use(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
        shape = self._shapes.of(source_of(body), use)
        messages = template_messages(body.messages)
        prompt = await self._service.chat_prompt(messages, variables, use)
        options = options_of(body, n_max)
        return await self._answer(request, body, prompt, options, shape, is_chat=True)

    async def _prompt(self, prompt: str | list[int] | list[str] | list[list[int]]) -> list[int]:
        """Its token ids. One prompt may be in a list."""
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise ApiError(400, "prompt: give one prompt for each request", param="prompt")
            return await self._prompt(prompt[0])
        if isinstance(prompt, str):
            return await self._service.text_prompt(prompt)
        ids = [each for each in prompt if isinstance(each, int)]
        self._service.check_ids(ids, "prompt")
        return ids

    async def _answer(
        self,
        request: Request,
        body: Common,
        prompt: list[int],
        options: Options,
        shape: Shape,
        *,
        is_chat: bool,
    ) -> Response:
        service = self._service
        asked = await self._shapes.constrained(service.request(prompt, options), shape)
        form = Form(
            service=service,
            request=asked,
            model=body.model or service.model_name,
            is_chat=is_chat,
            has_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        return await respond(service, request, asked, form, shape, is_stream=bool(body.stream))


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates know them."""
    return [
        {
            **each.model_dump(exclude_unset=True),
            "role": ROLES.get(each.role, each.role),
            "content": joined(each.content),
        }
        for each in messages
    ]
