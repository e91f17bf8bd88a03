"""Tools and their use as OpenAI's requests have them, checked, and as chat templates take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from pipeinfer_cli.errors import UserError

CHOICES = ("auto", "none", "required")
ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # a JSON schema of its arguments, an object


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools of a request, and whether the model may, must or must not call them."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"  # one of CHOICES
    only: str | None = None  # the name of the one that must be called
    is_parallel: bool = True  # several calls in an answer

    @classmethod
    def of(
        cls, tools: object, choice: object = None, *, parallel_tool_calls: object = None
    ) -> ToolUse:
        """From a request's fields. UserError, which names the field, if one is invalid."""
        known = _tools(tools)
        kind, only = _choice(choice, known)
        if parallel_tool_calls not in (None, True, False):
            raise UserError(f"parallel_tool_calls {short(parallel_tool_calls)}: give true or false")
        return cls(
            tools=known, choice=kind, only=only, is_parallel=parallel_tool_calls is not False
        )

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Those that may be called."""
        if self.choice == "none":
            return ()
        return tuple(each for each in self.tools if self.only in (None, each.name))

    @property
    def is_forced(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice == "required"

    def for_template(self) -> list[dict[str, Any]] | None:
        """The value of the chat template's `tools`; None if there are none to be told of."""
        functions = [
            {"name": each.name, "description": each.description, "parameters": each.parameters}
            for each in self.callable
        ]
        return [{"type": "function", "function": each} for each in functions] or None


NO_TOOLS = ToolUse()


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation's messages as chat templates take them: arguments of calls are values.

    UserError for a call that has not the form of OpenAI's.
    """
    return [_message(number, each) for number, each in enumerate(messages, start=1)]


def _message(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return {name: value for name, value in message.items() if name != "tool_calls"}
    name = f"tool_calls of message {number}"
    if not isinstance(calls, list):
        raise UserError(f"{name} {short(calls)}: give a list")
    made = [_call(name, each) for each in calls]
    return {**message, "content": message.get("content") or "", "tool_calls": made}


def _call(name: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(f"{name}: give objects with a function, which has a name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise UserError(f"{name}: the arguments {short(arguments)} are not JSON") from None
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    assert isinstance(call, Mapping)
    return {**made, "id": call["id"]} if isinstance(call.get("id"), str) else made


def _tools(value: object) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UserError(f"tools {short(value)}: give a list")
    tools = tuple(_tool(f"tools[{index}]", each) for index, each in enumerate(value))
    names = [each.name for each in tools]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"tools: two functions have the name {name!r}: give each its own")
    return tools


def _tool(name: str, value: object) -> Tool:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or value.get("type") != "function":
        raise UserError(f"{name}: only tools of the type function are supported")
    if not isinstance(function, Mapping):
        raise UserError(f"{name}.function {short(function)}: give an object")
    called = function.get("name")
    if not isinstance(called, str) or not called:
        raise UserError(f"{name}.function.name {short(called)}: give a string")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise UserError(f"{name}.function.description {short(description)}: give a string")
    parameters = function.get("parameters") or ANY_ARGUMENTS
    if not isinstance(parameters, Mapping):
        raise UserError(f"{name}.function.parameters {short(parameters)}: give a JSON schema")
    return Tool(name=called, description=description, parameters=parameters)


def _choice(value: object, tools: Sequence[Tool]) -> tuple[str, str | None]:
    """One of CHOICES, and the name of a single tool."""
    only = None
    if isinstance(value, Mapping):
        function = value.get("function")
        only = function.get("name") if isinstance(function, Mapping) else None
        if only not in [each.name for each in tools]:
            raise UserError(f"tool_choice: {short(only)} is none of the tools")
        value = "required"
    if value is None:
        value = "auto" if tools else "none"
    if value not in CHOICES:
        shown = ", ".join(CHOICES)
        raise UserError(f"tool_choice {short(value)}: give {shown}, or an object with a function")
    assert isinstance(value, str)
    if value == "required" and not tools:
        raise UserError("tool_choice required: there are no tools: give some")
    return value, only
