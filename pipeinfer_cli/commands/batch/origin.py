"""What a line of results was made from: recorded in the line, and checked by --resume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeinfer_cli.commands.batch.items import SAMPLING, BadItem, Item
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.engine.config import F16_CACHE
from pipeinfer_cli.models.shards import digest_of

KEY = "request"  # of a line
DIGESTS = (
    "model",
    "prompt",
    "system",
    "chat_template",
    "grammar",
    "line",
)  # what has a digest in place of its value
NOT_GIVEN = "none"  # shown in place of a value

Origin = dict[str, Any]  # names of options and their values; values of DIGESTS are digests


class Origins:
    """Says of the items of a batch what their lines are made from.

    It has what the text depends on. Options that only change the speed are left out.
    """

    def __init__(
        self, config: GenerateConfig, model: str, changes: Mapping[str, Any] | None = None
    ) -> None:
        self._config = config
        self._model = model  # see shards.model_digest
        self._changes = changes or {}  # of it: see Plan.changes

    def of(self, item: Item | BadItem) -> Origin:
        """The record for this item's line."""
        if isinstance(item, BadItem):
            return {"model": self._model, "line": item.digest}
        config = self._config
        made: Origin = {
            "model": self._model,
            "prompt": digest_of(json.dumps([item.prompt, item.messages], sort_keys=True)),
            "n_ctx": config.n_ctx,
            "n_predict": item.n_predict,
            **_sampling(item),
        }
        if config.synth_acceptance:
            made["seed"] = item.sample.seed  # also of greedy decoding
        if item.messages:
            made |= self._chat(item)
        caches = {"cache_type_k": config.cache_types.k, "cache_type_v": config.cache_types.v}
        optional = {
            **self._changes,
            "stop": list(item.stop),
            "stop_tokens": list(item.stop_tokens),
            "ignore_eos": item.ignore_eos,
            "grammar": _grammar(item),
            "synth_acceptance": config.synth_acceptance,
            **{name: kind for name, kind in caches.items() if kind != F16_CACHE.k},
        }
        return {**made, **{name: value for name, value in optional.items() if value}}

    def _chat(self, item: Item) -> Origin:
        """What a text depends on beside its messages. The template of the model is its own."""
        made = dict(self._config.template.record())
        if self._config.system is not None:
            made["system"] = digest_of(self._config.system)
        if "chat_template" in made:
            made["chat_template"] = digest_of(made["chat_template"])
        if variables := {**made.get("chat_template_kwargs", {}), **item.variables}:
            made["chat_template_kwargs"] = variables
        return made


def _grammar(item: Item) -> str:
    if item.grammar is None:
        return ""
    return digest_of(json.dumps([item.grammar.form, item.grammar.text]))


def _sampling(item: Item) -> Origin:
    """Greedy decoding depends on none of its options but the temperature."""
    values = asdict(item.sample)
    shown = {key: values[field] for key, (field, _) in SAMPLING.items()}
    return shown if item.sample.temperature > 0 else {"temp": 0}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Sequence[str]:
    """In words, how a line was made and how it would be made now; nothing if in the same way."""
    names = [
        name for name in {**expected, **found} if found.get(name, ...) != expected.get(name, ...)
    ]
    # An option without effect in one of the two (top_k without temp) explains nothing.
    in_both = [name for name in names if name in found and name in expected]
    return [_difference(name, found, expected) for name in in_both or names]


def _difference(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    if name in DIGESTS:
        return f"another {name}"
    there, here = (_shown(each.get(name)) for each in (found, expected))
    return f"{name} {there}, now {here}"


def _shown(value: Any) -> str:
    return NOT_GIVEN if value is None else json.dumps(value, ensure_ascii=False)
