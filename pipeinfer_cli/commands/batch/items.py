"""The items of a batch: lines of JSON, each a request or what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from reprlib import repr as short
from typing import Any

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.commands import json_lines
from pipeinfer_cli.commands.batch import openai
from pipeinfer_cli.commands.chat.template_options import RESERVED
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.shards import digest_of
from pipeinfer_cli.runtime.grammar.source import GrammarSource, of_field
from pipeinfer_cli.scheduler.runs import SampleParams

ItemId = str | int | float
Messages = tuple[dict[str, Any], ...]

SAMPLING = {  # key of an item -> field of SampleParams, and the types it may have
    "temp": ("temperature", (int, float)),
    "top_k": ("top_k", (int,)),
    "top_p": ("top_p", (int, float)),
    "min_p": ("min_p", (int, float)),
    "seed": ("seed", (int,)),
}
CONSTRAINTS = ("grammar", "json_schema", "response_format")  # one of them, at most
KEYS = (
    *("id", "prompt", "messages", "n_predict", "stop", "stop_tokens", "ignore_eos"),
    *("chat_template_kwargs", *SAMPLING, *CONSTRAINTS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A request of the batch: either a prompt or messages of a chat, and its options."""

    index: int  # among the items, from 0
    id: ItemId
    prompt: str | None
    messages: Messages
    n_predict: int
    sample: SampleParams
    stop: tuple[str, ...]
    ignore_eos: bool
    stop_tokens: tuple[str | int, ...] = ()  # as in GenerateConfig
    variables: Mapping[str, Any] = field(default_factory=dict)  # for the chat template
    grammar: GrammarSource | None = None  # that the text follows
    model: str | None = None  # as a line in OpenAI's form names it; the answer repeats it


@dataclass(frozen=True, slots=True, kw_only=True)
class BadItem:
    """An item that cannot be answered."""

    index: int
    id: ItemId
    error: str  # what is wrong, for a person
    digest: str = ""  # of its line


class _ItemError(Exception):
    """What is wrong with an item."""


def read_items(data: bytes, config: GenerateConfig) -> list[Item | BadItem]:
    """All items in their order; blank lines are none. What an item leaves open, config says."""
    lines = enumerate(json_lines.split(data))
    return [read_item(index, number, line, config) for index, (number, line) in lines]


def read_item(index: int, number: int, line: bytes, config: GenerateConfig) -> Item | BadItem:
    """The item of a line, the `index`-th of those that are not blank."""
    name: ItemId = number
    is_openai = False
    try:
        fields = _fields(line)
        is_openai = openai.is_openai(fields)
        name = _id("custom_id" if is_openai else "id", fields, number)
        if not is_openai:
            return _item(index, name, fields, config)
        item = _item(index, name, _from_openai(fields), config)
        return replace(item, model=openai.requested_model(fields))
    except _ItemError as error:
        reason = openai.own_name(str(error)) if is_openai else str(error)
    except OverflowError:
        reason = "a number is too large"
    return BadItem(index=index, id=name, error=reason, digest=digest_of("", line))


def _fields(line: bytes) -> dict[str, Any]:
    try:
        return json_lines.parse(line)
    except ValueError as error:
        raise _ItemError(str(error)) from None


def _from_openai(fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return openai.to_item(fields)
    except ValueError as error:
        raise _ItemError(str(error)) from None


def _id(key: str, fields: Mapping[str, Any], number: int) -> ItemId:
    value = fields.get(key, number)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, str):
        return _text(key, value)
    if is_number and math.isfinite(value):
        return value  # type: ignore[no-any-return]
    raise _ItemError(f"{key} {short(value)}: give a string or a number")


def _item(index: int, name: ItemId, fields: Mapping[str, Any], config: GenerateConfig) -> Item:
    if unknown := sorted(set(fields) - set(KEYS)):
        raise _ItemError(f"unknown key {short(unknown[0])}: known are {', '.join(KEYS)}")
    if ("prompt" in fields) == ("messages" in fields):
        raise _ItemError("give prompt or messages, one of them")
    messages = _messages(fields["messages"]) if "messages" in fields else ()
    if config.chat and not messages:
        messages = ({"role": "user", "content": _text("prompt", fields["prompt"])},)
    return Item(
        index=index,
        id=name,
        prompt=None if messages else _text("prompt", fields["prompt"]),
        messages=messages,
        n_predict=_n_predict(fields.get("n_predict", config.n_predict)),
        sample=_sample(fields, config.sample),
        stop=_stop(fields.get("stop", config.stop)),
        ignore_eos=_ignore_eos(fields.get("ignore_eos", config.ignore_eos)),
        stop_tokens=_stop_tokens(fields.get("stop_tokens", config.stop_tokens)),
        variables=_variables(fields.get("chat_template_kwargs", {})),
        grammar=_grammar(fields, config),
    )


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _ItemError(f"{key} {short(value)}: give a string")
    return value


def _messages(value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise _ItemError("messages: give a list of objects with role and content")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _ItemError(f"message {number}: give an object with role and content")
        _text(f"role of message {number}", message["role"])
    return tuple(
        {**message, "content": _content(number, message["content"])}
        for number, message in enumerate(value, 1)
    )


def _content(number: int, value: Any) -> str:
    """A message's text; parts of it are joined by line ends, as llama.cpp's server does."""
    name = f"content of message {number}"
    if not isinstance(value, list):
        return _text(name, value)
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or "text" not in part:
            raise _ItemError(f"{name}, part {short(part)}: only parts of the type text can be used")
    return "\n".join(_text(name, part["text"]) for part in value)


def _n_predict(value: Any) -> int:
    if value == -1:  # as -n: what the context leaves
        return MAX_COUNT
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
        raise _ItemError(f"n_predict {short(value)}: give a whole number from 1 to {MAX_COUNT}")
    return value


def _sample(fields: Mapping[str, Any], default: SampleParams) -> SampleParams:
    changes: dict[str, Any] = {}
    for key, (name, types) in SAMPLING.items():
        if key in fields:
            value = fields[key]
            if not isinstance(value, types) or isinstance(value, bool):
                kind = "number" if float in types else "whole number"
                raise _ItemError(f"{key} {short(value)}: give a {kind}")
            changes[name] = value
    try:
        return replace(default, **changes)
    except UserError as error:  # it names the command line's option
        option, _, rest = str(error).partition(" ")
        raise _ItemError(f"{option.lstrip('-').replace('-', '_')} {rest}") from None


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise _ItemError(f"stop {short(value)}: give a string or a list of strings")
    stops = tuple(_text("stop", text) for text in texts)
    if not all(stops):
        raise _ItemError("stop: must not be empty: leave it out")
    return stops


def _stop_tokens(value: Any) -> tuple[str | int, ...]:
    if not isinstance(value, list | tuple):
        raise _ItemError(f"stop_tokens {short(value)}: give a list of ids or spellings")
    for token in value:
        is_id = isinstance(token, int) and not isinstance(token, bool) and token >= 0
        if not is_id and not (isinstance(token, str) and token):
            raise _ItemError(f"stop_tokens: {short(token)} is neither an id nor a spelling")
    return tuple(value)


def _variables(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _ItemError(f"chat_template_kwargs {short(value)}: give an object")
    for name in RESERVED:
        if name in value:
            raise _ItemError(f"chat_template_kwargs: {name} is not for items")
    return value


def _grammar(fields: Mapping[str, Any], config: GenerateConfig) -> GrammarSource | None:
    """What the item's text must follow: as it says itself, else as the command line says."""
    given = [key for key in CONSTRAINTS if key in fields]
    if len(given) > 1:
        raise _ItemError(f"{given[0]} and {given[1]}: give one of them")
    source = config.grammar.source
    try:
        for key in given:
            value = fields[key]
            source = of_field(key, _text(key, value) if key == "grammar" else value)
    except UserError as error:
        raise _ItemError(str(error)) from None
    if source is not None and config.synth_acceptance is not None:
        raise _ItemError(f"{source.name} cannot be combined with --synth-acceptance")
    if source is not None and _ignore_eos(fields.get("ignore_eos", config.ignore_eos)):
        raise _ItemError(f"ignore_eos cannot be combined with {source.name}, which ends the text")
    return source


def _ignore_eos(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _ItemError(f"ignore_eos {short(value)}: give true or false")
    return value
