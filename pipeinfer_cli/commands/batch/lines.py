"""The two forms of a line of results: our own, and OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeinfer_cli.commands.batch.items import BadItem, Item, ItemId
from pipeinfer_cli.commands.batch.origin import KEY, Origin, Origins
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.shards import digest_of
from pipeinfer_cli.runtime.answer import Answer
from pipeinfer_cli.scheduler.metrics import Stats

Fields = dict[str, Any]
BAD_REQUEST = 400


class LineForm(Protocol):
    """What is written of an item. The first key of a line is `id_key`."""

    origins: Origins  # what lines are made from

    @property
    def id_key(self) -> str:
        """Under which the item's id stands."""

    def id_of(self, item: Item | BadItem) -> ItemId:
        """The item's id, as it stands there."""

    def answer(self, item: Item, answer: Answer, stats: Stats) -> Fields:
        """A line, without what differs from run to run."""

    def error(self, item: Item | BadItem, error: str) -> Fields:
        """A line in place of an answer."""

    def is_result(self, fields: Mapping[str, Any]) -> bool:
        """Whether a line of a file has this form."""


def form_of(
    config: GenerateConfig, origins: Origins, model: str, *, exact: bool = True
) -> LineForm:
    """The form that --format asks for; `model` is what an answer calls the model.

    `exact` says that texts are those of plain decoding; see engine.cpu.exactness.
    """
    if config.format == "openai":
        return OpenAiForm(config, origins, model, exact=exact)
    return OwnForm(config, origins, exact=exact)


class OwnForm:
    """Our own: text and token ids."""

    id_key = "id"

    def __init__(self, config: GenerateConfig, origins: Origins, *, exact: bool = True) -> None:
        self._config, self.origins, self._exact = config, origins, exact

    def id_of(self, item: Item | BadItem) -> ItemId:
        """As it was given."""
        return item.id

    def answer(self, item: Item, answer: Answer, stats: Stats) -> Fields:
        """Text, tokens and what they are made from."""
        return {
            "id": item.id,
            "text": answer.text,
            "tokens": answer.tokens,
            "n_prompt": stats.n_prompt,
            "seed": item.sample.seed,
            "finish_reason": answer.finish_reason,
            "exact": self._exact,
            **_synthetic(self._config),
            KEY: self.origins.of(item),
        }

    def error(self, item: Item | BadItem, error: str) -> Fields:
        """The reason."""
        return {"id": item.id, "error": error, KEY: self.origins.of(item)}

    def is_result(self, fields: Mapping[str, Any]) -> bool:
        """Whether it has an id, and a text or an error; what else has them has a response, too."""
        is_other = "response" in fields
        return not is_other and "id" in fields and ("text" in fields or "error" in fields)


class OpenAiForm:
    """OpenAI's batch output. Ids come from digests and times are 0: the same items, the same bytes.

    What the line is made from is added to it.
    """

    id_key = "custom_id"

    def __init__(
        self, config: GenerateConfig, origins: Origins, model: str, *, exact: bool = True
    ) -> None:
        self._config, self.origins, self._model, self._exact = config, origins, model, exact

    def id_of(self, item: Item | BadItem) -> str:
        """A text, as OpenAI's clients expect it."""
        return str(item.id)

    def answer(self, item: Item, answer: Answer, stats: Stats) -> Fields:
        """A response with a completion, of a chat or of a text."""
        made_from = self.origins.of(item)
        n_prompt, n_generated = stats.n_prompt, len(answer.tokens)
        choice: Fields
        if item.prompt is None:
            kind, prefix = "chat.completion", "chatcmpl"
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            choice = {"index": 0, "message": message}
        else:
            kind, prefix, choice = "text_completion", "cmpl", {"index": 0, "text": answer.text}
        body = {
            "id": f"{prefix}-{self._digest(item, made_from)}",
            "object": kind,
            "created": 0,
            "model": item.model or self._model,
            "choices": [{**choice, "logprobs": None, "finish_reason": answer.finish_reason}],
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": n_generated,
                "total_tokens": n_prompt + n_generated,
            },
            "system_fingerprint": f"fp_{made_from['model']}",
        }
        line = {**self._line(item, made_from, 200, body), "error": None, "exact": self._exact}
        return {**line, **self._marks(made_from)}

    def error(self, item: Item | BadItem, error: str) -> Fields:
        """A response that refuses the request."""
        made_from = self.origins.of(item)
        code = "invalid_request_error"
        body = {"error": {"message": error, "type": code, "param": None, "code": None}}
        line = self._line(item, made_from, BAD_REQUEST, body)
        return {**line, "error": {"code": code, "message": error}, **self._marks(made_from)}

    def is_result(self, fields: Mapping[str, Any]) -> bool:
        """Whether it has an item's id and a response."""
        return "custom_id" in fields and "response" in fields

    def _line(self, item: Item | BadItem, made_from: Origin, status: int, body: Fields) -> Fields:
        digest = self._digest(item, made_from)
        return {
            "custom_id": self.id_of(item),
            "id": f"batch_req_{digest}",
            "response": {"status_code": status, "request_id": f"req_{digest}", "body": body},
        }

    def _marks(self, made_from: Origin) -> Fields:
        return {**_synthetic(self._config), KEY: made_from}

    def _digest(self, item: Item | BadItem, made_from: Origin) -> str:
        return digest_of(json.dumps([self.id_of(item), made_from]))


def _synthetic(config: GenerateConfig) -> Fields:
    rate = config.synth_acceptance
    return {} if rate is None else {"synthetic": rate}


class KnownIds:
    """The ids so far: with the same one for two items nobody could tell their results apart."""

    def __init__(self, form: LineForm) -> None:
        self._form = form
        self._numbers: dict[tuple[type, ItemId], int] = {}

    def add(self, item: Item | BadItem) -> str:
        """What is wrong with the next item's id; empty if nothing is."""
        shown = self._form.id_of(item)
        number = item.index + 1
        first = self._numbers.setdefault((type(shown), shown), number)
        if first == number:
            return ""
        return (
            f"the items {first} and {number} have the same id {shown!r}: give each its own, or "
            "none (then it is the line's number)"
        )


def check_ids(items: Sequence[Item | BadItem], form: LineForm) -> None:
    """UserError if two items have the same id."""
    known = KnownIds(form)
    for item in items:
        if error := known.add(item):
            raise UserError(f"--prompts: {error}")
