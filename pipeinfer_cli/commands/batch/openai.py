"""Lines of OpenAI's batch format as items: what a request's body says, in our own words.

See https://platform.openai.com/docs/guides/batch; vLLM's names for more options are known, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from pipeinfer_cli.commands.chat.template_options import EFFORT

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LINE_KEYS = ("custom_id", "method", "url", "body")

SAME = (
    *("prompt", "messages", "top_k", "top_p", "min_p", "seed", "stop", "ignore_eos"),
    *("chat_template_kwargs", "response_format", "grammar", "json_schema"),
)
RENAMED = {
    "max_tokens": "n_predict",
    "max_completion_tokens": "n_predict",
    "temperature": "temp",
    "stop_token_ids": "stop_tokens",
}
FIRST_WORD = re.compile(r"^\w+")
# Keys that ask for nothing we do not do, if they have one of these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "suffix": ("",),
}
# Keys that do not change the text.
IGNORED = (
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "stream_options",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
)


def is_openai(fields: Mapping[str, Any]) -> bool:
    """Whether a line has OpenAI's form."""
    return "body" in fields or "custom_id" in fields


def requested_model(fields: Mapping[str, Any]) -> str | None:
    """The model that the body names, which the answer repeats."""
    body = fields.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None


def to_item(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a line by the keys of our own items. ValueError says what is wrong."""
    item: dict[str, Any] = {}
    for key, value in _body(fields).items():
        if key == EFFORT:
            continue
        if key in NEUTRAL:
            _check_neutral(key, value)
        elif key not in SAME and key not in RENAMED:
            raise ValueError(f"{key} is not supported: leave it out")
        elif item.setdefault(RENAMED.get(key, key), value) != value:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
    if isinstance(item.get("prompt"), list) and len(item["prompt"]) == 1:
        (item["prompt"],) = item["prompt"]
    return _with_effort(item, fields["body"].get(EFFORT))


def _with_effort(item: dict[str, Any], effort: Any) -> dict[str, Any]:
    """reasoning_effort is a variable of the chat template."""
    values = item.get("chat_template_kwargs", {})
    if effort is None or not isinstance(values, dict):
        return item
    return {**item, "chat_template_kwargs": {EFFORT: effort, **values}}


def _body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the body of a line says. null is what is not given."""
    for key in fields:
        if key not in LINE_KEYS:
            raise ValueError(f"unknown key {short(key)}: known are {', '.join(LINE_KEYS)}")
    if fields.get("method", "POST") != "POST":
        raise ValueError(f"method {short(fields['method'])}: only POST is supported")
    body = fields.get("body")
    if not isinstance(body, dict):
        raise ValueError(f"body {short(body)}: give an object with messages or prompt")
    _check_url(fields.get("url"), body)
    return {key: value for key, value in body.items() if value is not None and key not in IGNORED}


def own_name(message: str) -> str:
    """A message about an item, with the body's name of the key that it begins with."""
    names = {ours: theirs for theirs, ours in reversed(RENAMED.items())}
    return FIRST_WORD.sub(lambda word: names.get(word[0], word[0]), message)


def _check_url(url: Any, body: Mapping[str, Any]) -> None:
    if url is None:
        return
    if url not in (CHAT, COMPLETIONS):
        raise ValueError(f"url {short(url)}: {CHAT} and {COMPLETIONS} are supported")
    key = "messages" if url == CHAT else "prompt"
    if key not in body:
        raise ValueError(f"the body has no {key}, which {url} requires")


def _check_neutral(key: str, value: Any) -> None:
    is_bool = isinstance(value, bool)  # True == 1
    if not any(value == each and is_bool == isinstance(each, bool) for each in NEUTRAL[key]):
        raise ValueError(f"{key} {short(value)} is not supported: leave it out")
