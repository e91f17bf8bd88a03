"""A command whose arguments are looked at before typer does: nothing is misread.

typer takes `-fa` for `-f a`, and `-ngl 99` for `-n gl` and a prompt. Here an option is known as a
whole or refused by name. llama.cpp's options become ours, or a note, or an error; see llama_cpp.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import typer.core

from pipeinfer_cli.checks import did_you_mean
from pipeinfer_cli.cli.parsing.llama_cpp import BY_NAME, LlamaOption, Use, is_silent
from pipeinfer_cli.errors import UserError

NOTES = "pipeinfer.notes"  # of typer.Context.meta
NUMBER = re.compile(r"[-+]?\d[\d.,]*")
MODEL, PROMPT = "--model", "--prompt"

Options = Mapping[str, bool]  # all names, and whether a value follows


class CheckedCommand(typer.core.TyperCommand):
    """A command of ours. The notes about its arguments are in `notes_of(context)`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer, of the arguments as we read them. Raises UserError."""
        options = {
            name: not getattr(param, "is_flag", False)
            for param in self.get_params(ctx)
            if param.param_type_name == "option"
            for name in (*param.opts, *param.secondary_opts)
        }
        reader = _Reader(options, ctx.command_path)
        read = list(reader.read(args))
        ctx.meta[NOTES] = tuple(dict.fromkeys(reader.notes))
        return super().parse_args(ctx, read)


def notes_of(context: typer.Context) -> tuple[str, ...]:
    """What is to be said about the arguments before the work begins."""
    return tuple(context.meta.get(NOTES, ()))


class _Reader:
    """Reads arguments from left to right."""

    def __init__(self, options: Options, command: str) -> None:
        self._options, self._command = options, command
        self._known = BY_NAME if MODEL in options else {}
        self.notes: list[str] = []

    def read(self, args: list[str]) -> Iterator[str]:
        """The arguments for typer. UserError if one is not an option, or not for us."""
        rest = list(args)
        while rest:
            arg = rest.pop(0)
            if arg == "--":
                yield arg
                yield from rest
                return
            name, equals, value = arg.partition("=") if arg.startswith("--") else (arg, "", "")
            if not arg.startswith("-") or arg == "-":
                yield arg
            elif name in self._options:
                yield arg
                if self._options[name] and not equals and rest:
                    yield rest.pop(0)
            elif name in self._known:
                yield from self._translated(name, [value] if equals else rest)
            elif self._is_attached(arg):
                yield arg
            else:
                raise self._unknown(arg)

    def _translated(self, name: str, rest: list[str]) -> Iterator[str]:
        """What one of llama.cpp's options is here. Takes its value from `rest`."""
        option = self._known[name]
        value = self._value(option, name, rest)
        if option.use is Use.RENAMED:
            ours, _, form = option.becomes.partition("=")
            if ours not in self._options:
                raise UserError(f"{name}: {self._command} has no {ours}: leave it out")
            yield ours
            if option.value:
                yield (form or "{}").replace("{}", value)
            return
        if value and is_silent(option, value):
            return
        message = f"{name} {value}".rstrip() + f": {option.answer}"
        if option.use is Use.REFUSED:
            raise UserError(message)
        self.notes.append(f"{message}: ignored")

    @staticmethod
    def _value(option: LlamaOption, name: str, rest: list[str]) -> str:
        if not option.value or (option.optional and rest[:1] and rest[0] not in option.optional):
            return ""
        if not rest:
            if option.optional:
                return ""
            raise UserError(f"{name} requires a value: {option.value}")
        return rest.pop(0)

    def _is_attached(self, arg: str) -> bool:
        """Whether it is a one-letter option with a number: -n64."""
        takes_value = self._options.get(arg[:2], False)
        return takes_value and NUMBER.fullmatch(arg[2:]) is not None

    def _unknown(self, arg: str) -> UserError:
        name, equals, value = arg.partition("=")
        if equals and (name in self._options or name in self._known):
            return UserError(f"{arg}: give {name} {value}, without =: see {self._command} --help")
        guess = did_you_mean(name, [*self._options, *self._known])
        prompt = ""
        if PROMPT in self._options:
            prompt = "; a prompt that begins with - is given by -p"
        return UserError(f"no such option: {name}{guess}{prompt}: see {self._command} --help")
