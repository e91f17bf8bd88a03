"""Where a grammar comes from: an option's text or file, or a request's response_format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal

from pipeinfer_cli.errors import UserError

Form = Literal["lark", "gbnf", "json_schema"]

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
NO_FILE = "there is no such file, and it is not {}: give a file, or the text itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSource:
    """A grammar as it was given. `name` is what messages call it."""

    form: Form
    text: str
    name: str

    @classmethod
    def of_grammar(cls, text: str, name: str = "grammar") -> GrammarSource:
        """A text in llguidance's Lark, or in llama.cpp's GBNF. UserError if it is empty."""
        if not text.strip():
            raise UserError(f"{name}: must not be empty")
        return cls(form="gbnf" if GBNF_RULE.search(text) else "lark", text=text, name=name)

    @classmethod
    def of_schema(cls, schema: object, name: str = "json_schema") -> GrammarSource:
        """A JSON schema, as JSON has it. UserError if it is none."""
        if not isinstance(schema, dict | bool):
            raise UserError(f"{name} {short(schema)}: give a JSON schema, an object")
        schema = {} if schema is True else schema
        return cls(form="json_schema", text=json.dumps(schema), name=name)


def of_response_format(value: object) -> GrammarSource | None:
    """What OpenAI's `response_format` asks for; None for a plain text. UserError if it is invalid.

    A json_object may have a schema, as for llama.cpp's server.
    """
    name = "response_format"
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise UserError(f'{name} {short(value)}: give an object like {{"type": "json_object"}}')
    kind = value["type"]
    if kind == "text":
        return None
    if kind == "json_object":
        return GrammarSource.of_schema(value.get("schema") or ANY_OBJECT, name)
    if kind != "json_schema":
        raise UserError(f"{name} {short(kind)}: give text, json_object or json_schema")
    named = value.get("json_schema")
    if not isinstance(named, Mapping) or "schema" not in named:
        raise UserError(f"{name}: json_schema needs an object with a schema")
    return GrammarSource.of_schema(named["schema"], f"{name}.json_schema.schema")


def of_field(key: str, value: Any) -> GrammarSource | None:
    """What a request's grammar, json_schema or response_format asks for. UserError if invalid."""
    if key == "grammar":
        return GrammarSource.of_grammar(value)
    return GrammarSource.of_schema(value) if key == "json_schema" else of_response_format(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarOptions:
    """--grammar and --json-schema: a text, or the name of a file with it. UserError for both."""

    grammar: str | None = None
    json_schema: str | None = None
    source: GrammarSource | None = None  # what they say, once it was read

    def __post_init__(self) -> None:
        if self.grammar is not None and self.json_schema is not None:
            raise UserError("--grammar cannot be combined with --json-schema: give one of them")

    @property
    def given(self) -> str:
        """The option that is given; empty if none is."""
        if self.grammar is not None:
            return "--grammar"
        return "--json-schema" if self.json_schema is not None else ""

    def read(self) -> GrammarOptions:
        """The same with what they say. UserError if that cannot be read, or is not JSON."""
        if self.source is not None or not self.given:
            return self
        if self.grammar is not None:
            text, name = _text("--grammar", self.grammar, ":", "a grammar")
            return replace(self, source=GrammarSource.of_grammar(text, name))
        assert self.json_schema is not None
        text, name = _text("--json-schema", self.json_schema, "{", "a JSON object")
        return replace(self, source=GrammarSource.of_schema(_parsed(text, name), name))


NO_GRAMMAR = GrammarOptions()


def _text(option: str, value: str, mark: str, what: str) -> tuple[str, str]:
    """The text that an option names or is, and what messages call it; `mark` is in each text."""
    name = f"{option} {value!r}"
    try:
        return Path(value).read_text(encoding="utf-8"), name
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        reason = f"{error.strerror}: give a file"
        if isinstance(error, FileNotFoundError):
            reason = NO_FILE.format(what)
    except ValueError:  # a NUL
        reason = NO_FILE.format(what)
    if mark in value:  # which may be too long for a file's name
        return value, option
    raise UserError(f"{name}: {reason}")


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{name}: not JSON: {place}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{name}: not JSON: it is nested too deeply") from None
