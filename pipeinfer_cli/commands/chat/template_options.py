"""What the options say about a chat template: another one, and values for its variables."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeinfer_cli.errors import UserError

THINKING = {"on": True, "off": False}
REASONING = (*THINKING, "auto")
SWITCHES = ("enable_thinking", "thinking")  # as templates call it
EFFORT = "reasoning_effort"
OPTIONS = ("--chat-template", "--chat-template-kwargs", "--reasoning", "--reasoning-effort")
RESERVED = ("messages", "add_generation_prompt")
# Hugging Face's tags around what a model is trained on, which Jinja2 does not know.
GENERATION = re.compile(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateOptions:
    """Raises UserError where it is built if a value is invalid."""

    file: Path | None = None  # instead of the GGUF's own template
    source: str | None = None  # what is in it, once it was read
    kwargs: str = ""  # a JSON object: values of variables, by their names
    reasoning: str = "auto"  # see REASONING; auto: as the template does
    effort: str | None = None

    def __post_init__(self) -> None:
        _ = self.variables
        if self.reasoning not in REASONING:
            raise UserError(f"--reasoning {self.reasoning!r}: give one of {', '.join(REASONING)}")

    @property
    def given(self) -> str:
        """The first option that says something; empty if none does."""
        values = (self.file, self.kwargs, self.reasoning != "auto", self.effort)
        return next((name for name, each in zip(OPTIONS, values, strict=True) if each), "")

    @property
    def variables(self) -> dict[str, Any]:
        """The values of --chat-template-kwargs."""
        try:
            values = json.loads(self.kwargs) if self.kwargs else {}
        except (ValueError, RecursionError) as error:
            raise _bad_kwargs(self.kwargs, f"not JSON ({error})") from None
        if not isinstance(values, dict):
            raise _bad_kwargs(self.kwargs, "not a JSON object")
        for name in RESERVED:
            if name in values:
                raise _bad_kwargs(self.kwargs, f"{name} is not for options")
        return values

    def read(self) -> TemplateOptions:
        """The same with what is in the file. Raises UserError."""
        if self.file is None or self.source is not None:
            return self
        try:
            return replace(self, source=self.file.read_text(encoding="utf-8"))
        except OSError as error:
            what = error.strerror
        except UnicodeDecodeError as error:
            what = f"not UTF-8 text (byte {error.start})"
        raise UserError(
            f"--chat-template {str(self.file)!r}: {what}: give a file with a Jinja2 template"
        )

    def values_for(self, known: Collection[str]) -> dict[str, Any]:
        """Values of variables for a template that knows these. UserError if it lacks a switch."""
        values: dict[str, Any] = {}
        if self.reasoning != "auto":
            switches = [name for name in SWITCHES if name in known]
            if not switches:
                raise UserError(
                    f"--reasoning {self.reasoning}: the chat template has no switch for it "
                    f"({' or '.join(SWITCHES)}): leave it out"
                )
            values |= dict.fromkeys(switches, THINKING[self.reasoning])
        if self.effort is not None:
            if EFFORT not in known:
                raise UserError(
                    f"--reasoning-effort {self.effort}: the chat template does not use {EFFORT}: "
                    "leave it out"
                )
            values[EFFORT] = self.effort
        return {**values, **self.variables}

    def record(self) -> Mapping[str, Any]:
        """What of this changes texts, for a line of results; after `read`."""
        named = {"chat_template": self.source, "chat_template_kwargs": self.variables}
        reasoning = None if self.reasoning == "auto" else self.reasoning
        switches = {"reasoning": reasoning, "reasoning_effort": self.effort}
        return {
            name: value for name, value in {**named, **switches}.items() if value not in (None, {})
        }


NO_OPTIONS = TemplateOptions()


def variables_of(source: str) -> set[str]:
    """The variables that a template looks up. Raises whatever Jinja2 has against it."""
    from jinja2 import Environment, meta

    parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", source))
    return set(meta.find_undeclared_variables(parsed))


def _bad_kwargs(text: str, what: str) -> UserError:
    return UserError(f'--chat-template-kwargs {text!r}: {what}: give one like {{"name": true}}')
