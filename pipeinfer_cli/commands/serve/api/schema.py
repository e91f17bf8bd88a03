"""The bodies of requests in OpenAI's two older dialects, as pydantic models.

null is what is not given. What is not known is refused, as OpenAI does; what is known and changes
no text is ignored, and what would change it, but is not supported, is refused by `check_supported`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.commands.batch.openai import NEUTRAL
from pipeinfer_cli.commands.serve.http.errors import ApiError

MAX_STOPS = 16
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
StopString = Annotated[str, Field(min_length=1)]
# Beside those of batches: asking for nothing if they have one of these values.
SERVER_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **{
        key: values
        for key, values in NEUTRAL.items()
        if key not in ("stream", "tools", "tool_choice")
    },
    "repeat_penalty": (1,),
    "typical_p": (1,),
    "mirostat": (0,),
    "min_tokens": (0,),
    "prediction": ({},),
    "audio": ({},),
    "web_search_options": ({},),
    "guided_json": ({},),
}


class WithText(Protocol):
    """A part of a content that has a text."""

    @property
    def text(self) -> str:
        """The text."""


def joined(content: str | Sequence[WithText] | None) -> str:
    """A content's text: its parts are joined by line ends."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)


class Strict(BaseModel):
    """No type is taken for another one, no key for one that is misspelt."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(Strict):
    """What a stream has besides the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # there is nothing to obfuscate


class Common(Strict):
    """What both dialects have."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # What the text must follow: see shapes.py.
    response_format: Any = None
    grammar: str | None = None
    json_schema: Any = None
    # Supported with some values only: see SERVER_NEUTRAL.
    n: Any = None
    best_of: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    repetition_penalty: Any = None
    repeat_penalty: Any = None
    typical_p: Any = None
    mirostat: Any = None
    min_tokens: Any = None
    guided_json: Any = None
    # Without effect on the text.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    cache_prompt: Any = None
    id_slot: Any = None
    n_keep: Any = None
    timings_per_token: Any = None
    skip_special_tokens: Any = None
    verbosity: Any = None


class CompletionBody(Common):
    """POST /v1/completions."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]
    echo: Any = None
    suffix: Any = None


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Any = None
    logprobs: Any = None
    cache_control: Any = None


class Message(BaseModel):
    """A message; keys that are not named here reach the chat template."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None


class ChatBody(Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: Any = None  # see shapes.py
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    prediction: Any = None
    audio: Any = None
    web_search_options: Any = None


class TokenizeBody(Strict):
    """POST /tokenize, as llama.cpp's server has it."""

    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Strict):
    """POST /detokenize."""

    tokens: list[TokenId]


def check_supported(body: BaseModel, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """ApiError if a key asks for what is not supported."""
    for key in body.model_fields_set & neutral.keys():
        value = getattr(body, key)
        is_bool = isinstance(value, bool)  # True == 1
        same = any(value == each and is_bool == isinstance(each, bool) for each in neutral[key])
        if value is not None and not same:
            raise ApiError(
                400,
                f"{key} is not supported here: leave it out",
                param=key,
                code="unsupported_parameter",
            )
