"""Calls of tools in a text that comes in pieces: what is text, and what is a call.

The pieces make no difference: texts joined, and calls, are those of the whole in one piece. What
looks like a call and is none is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeinfer_cli.commands.chat.tools import xml
from pipeinfer_cli.commands.chat.tools.definitions import Tool
from pipeinfer_cli.commands.chat.tools.formats import (
    HERMES,
    HERMES_BEGIN,
    HERMES_END,
    LLAMA,
    LLAMA_TAG,
    MISTRAL_ARGS,
    MISTRAL_BEGIN,
    MISTRAL_ID,
    QWEN_CODER,
    ToolFormat,
)

ARGUMENTS = ("arguments", "parameters")
SPACE = " \t\r\n"
MISTRAL_NAME = re.compile(r"\s*([\w.-]+)\s*")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call: the function's name, and its arguments as a JSON text."""

    name: str
    arguments: str


Part = str | ToolCall


class ToolParser:
    """Feed it the text as it comes; it returns texts and calls in their order.

    Only these functions are called. Space around calls belongs to neither.
    """

    def __init__(self, form: ToolFormat, tools: Sequence[Tool]) -> None:
        self._tools = {each.name: each for each in tools}
        self._form = form
        self._held = ""  # may be, or become, a call
        self._ends: dict[int, _Scan] = {}  # of JSON in it, by where it begins
        self._space = ""  # after a text: it belongs to it if more text comes
        self._is_at_begin = True  # nothing but space, or calls, so far
        self._is_after_call = False

    def feed(self, piece: str) -> list[Part]:
        """What is known by now."""
        self._held += piece
        return list(self._joined(self._parts(is_end=False)))

    def finish(self) -> list[Part]:
        """The rest: no more text comes."""
        return list(self._joined(self._rest()))

    def _rest(self) -> Iterator[Part]:
        yield from self._parts(is_end=True)
        yield self._space

    def _joined(self, parts: Iterator[Part]) -> Iterator[Part]:
        """Neighbouring texts as one."""
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            if text:
                yield text
            yield part
            text = ""
        if text:
            yield text

    def _parts(self, *, is_end: bool) -> Iterator[Part]:
        while self._held:
            n_text = self._n_text(is_end=is_end)
            yield from self._text(self._held[:n_text])
            self._held = self._held[n_text:]
            if not self._held or (n_used := self._call(is_end=is_end)) == 0:
                return
            used, self._held = self._held[:n_used], self._held[n_used:]
            self._ends.clear()
            if calls := self._calls:
                self._space = ""
                self._is_after_call = True
                yield from calls
            else:
                self._is_at_begin = False
                yield from self._text(used)

    def _text(self, text: str) -> Iterator[str]:
        """A text, but for the space at its end, which is kept."""
        shown = text.rstrip(SPACE)
        if not shown:
            self._space += text if not self._is_after_call else ""
            return
        if self._is_after_call:
            shown = shown.lstrip(SPACE)
        yield self._space + shown
        self._space = text[len(text.rstrip(SPACE)) :]
        self._is_at_begin = self._is_after_call = False

    def _n_text(self, *, is_end: bool) -> int:
        """Characters of what is held that belong to no call, and to no beginning of one."""
        held = self._held
        if self._form is LLAMA and self._is_at_begin:
            n_space = len(held) - len(held.lstrip(SPACE))
            if held[n_space : n_space + 1] == "{":
                return n_space
        begins = self._form.begins
        if places := [at for begin in begins if (at := held.find(begin)) >= 0]:
            return min(places)
        if is_end:
            return len(held)
        for size in range(min(max(map(len, begins)) - 1, len(held)), 0, -1):
            if any(begin.startswith(held[-size:]) for begin in begins):
                return len(held) - size
        return len(held)

    _calls: Sequence[ToolCall] = ()

    def _call(self, *, is_end: bool) -> int:
        """How much of what is held is a call, or several, or none after all; 0: not known yet.

        The calls are in `_calls`, nothing if it is text.
        """
        held, ends = self._held, self._ends
        is_bare = self._form is LLAMA and held.startswith("{")
        if not is_bare and not held.startswith(self._form.begins):
            return 0  # a part of a mark
        if self._form is HERMES:
            found = _hermes_call(held, ends)
        elif self._form is QWEN_CODER:
            found = _xml_call(held, self._tools, is_end=is_end)
        elif self._form is LLAMA:
            found = _llama_call(held, ends, is_end=is_end)
        else:
            found = _mistral_calls(held, ends, is_end=is_end)
        if found is None:
            self._calls = ()
            return len(self._held) if is_end else 0
        n_used, values = found
        calls = [_as_call(value) for value in values]
        is_whole = all(each is not None and each.name in self._tools for each in calls)
        self._calls = [each for each in calls if each is not None] if is_whole else ()
        return n_used


@dataclass(slots=True)
class _Scan:
    """How far the brackets of a JSON text were followed."""

    at: int
    end: int | None = None
    depth: int = 0
    is_in_string: bool = False
    is_escaped: bool = False

    def step(self, character: str) -> None:
        """The next character."""
        self.at += 1
        if self.is_escaped:
            self.is_escaped = False
        elif self.is_in_string:
            self.is_escaped = character == "\\"
            self.is_in_string = character != '"'
        elif character == '"':
            self.is_in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            self.end = self.at if self.depth == 0 else None


_Found = tuple[int, list[Any]]  # characters, and the values that should be calls; [None]: no call


def _hermes_call(held: str, ends: dict[int, _Scan]) -> _Found | None:
    """`<tool_call>{...}</tool_call>`; the end mark may be in a string of it."""
    at = len(HERMES_BEGIN) + _n_space(held[len(HERMES_BEGIN) :])
    if at == len(held):
        return None
    if held[at] != "{":
        return len(HERMES_BEGIN), [None]
    if (end := _json_end(held, at, ends)) is None:
        return None
    rest = held[end:].lstrip(SPACE)
    if rest.startswith(HERMES_END):
        return held.index(HERMES_END, end) + len(HERMES_END), [_parsed(held[at:end])]
    return None if HERMES_END.startswith(rest) else (end, [None])


def _xml_call(held: str, tools: Mapping[str, Tool], *, is_end: bool) -> _Found | None:
    found = xml.find_call(held, tools, is_end=is_end)
    return found and (found[0], [found[1]])


def _llama_call(held: str, ends: dict[int, _Scan], *, is_end: bool) -> _Found | None:
    """`<|python_tag|>{...}`, or the whole answer `{...}`; several with `;` between them."""
    values: list[Any] = []
    at = len(LLAMA_TAG) if held.startswith(LLAMA_TAG) else 0
    while True:
        at += _n_space(held[at:])
        if at == len(held):
            return (at, values) if is_end and values else None
        if held[at] != "{":
            return len(held), [None]
        if (end := _json_end(held, at, ends)) is None:
            return None
        values.append(_parsed(held[at:end]))
        at = end + _n_space(held[end:])
        if at == len(held):
            return (at, values) if is_end else None
        if held[at] != ";":
            return at, [None]
        at += 1


def _mistral_calls(held: str, ends: dict[int, _Scan], *, is_end: bool) -> _Found | None:
    """`[TOOL_CALLS][{...}, ...]`, or `[TOOL_CALLS]name[ARGS]{...}`, maybe with an id."""
    at = len(MISTRAL_BEGIN) + _n_space(held[len(MISTRAL_BEGIN) :])
    if at == len(held):
        return None
    if held[at] == "[":
        if (end := _json_end(held, at, ends)) is None:
            return None
        values = _parsed(held[at:end])
        return end, values if isinstance(values, list) and values else [None]
    args = held.find(MISTRAL_ARGS, at)
    if args < 0:
        is_name = MISTRAL_NAME.fullmatch(held[at:].partition("[")[0])
        return None if is_name and not is_end else (len(MISTRAL_BEGIN), [None])
    name = MISTRAL_NAME.fullmatch(held[at:args].partition(MISTRAL_ID)[0])
    begin = args + len(MISTRAL_ARGS)
    begin += _n_space(held[begin:])
    if begin == len(held) and name:
        return None
    if not name or held[begin] != "{":
        return len(MISTRAL_BEGIN), [None]
    if (end := _json_end(held, begin, ends)) is None:
        return None
    return end, [{"name": name[1], "arguments": _parsed(held[begin:end])}]


def _n_space(text: str) -> int:
    return len(text) - len(text.lstrip(SPACE))


def _json_end(text: str, begin: int, ends: dict[int, _Scan]) -> int | None:
    """Where the object or list ends that begins there; None if it does not yet.

    `ends` remembers how far the text was looked at, as it only grows.
    """
    scan = ends.setdefault(begin, _Scan(begin))
    while scan.end is None and scan.at < len(text):
        scan.step(text[scan.at])
    return scan.end


def _parsed(text: str) -> Any:
    """The value of a JSON text; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _as_call(value: Any) -> ToolCall | None:
    """The call that an object describes, if it does."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    key = next((each for each in ARGUMENTS if each in value), None)
    arguments = {} if key is None else value[key]
    if isinstance(arguments, str):  # some models write JSON in JSON
        arguments = _parsed(arguments)
    if not isinstance(arguments, dict):
        return None
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return None
    return ToolCall(value["name"], text.encode(errors="replace").decode())  # half of a pair: ?
