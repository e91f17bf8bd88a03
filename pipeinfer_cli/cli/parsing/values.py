"""Parsers of options' values, and of comma-separated lists of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TypeVar

import typer
from typer.models import OptionInfo

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.errors import UserError

T = TypeVar("T")


def integer(text: str) -> int:
    """A whole number, or an error that names what was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def count_or_rest(text: str) -> int:
    """A number of tokens; -1 and -2, as in llama.cpp: as many as the context leaves."""
    number = integer(text)
    return MAX_COUNT if number in (-1, -2) else number


def integer_or_auto(text: str) -> int | None:
    """A whole number, or None for `auto`."""
    return None if text == "auto" else integer(text)


def integers(text: str) -> int | tuple[int, ...]:
    """`8` as a number, `8,8,4` as a list, or an error that names what was given."""
    numbers = tuple(integer(part) for part in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


def number(text: str) -> float:
    """A number, or an error that names what was given."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def one(option: str, text: str, parse: Callable[[str], T]) -> T:
    """A value by one of these parsers. Raises UserError, naming the option."""
    try:
        return parse(text)
    except typer.BadParameter as error:
        raise UserError(f"{option} {error.message}: see --help") from None


def several(option: str, text: str, parse: Callable[[str], T]) -> tuple[T, ...]:
    """`2,4,8` as values by one of these parsers; nothing as none. UserError as `one`."""
    return tuple(one(option, word, parse) for word in words(option, text))


def words(option: str, text: str) -> tuple[str, ...]:
    """`a,b` as its parts; nothing as none. Raises UserError, naming the option."""
    parts = tuple(part.strip() for part in text.split(","))
    if parts == ("",):
        return ()
    if not all(parts):
        raise UserError(f"{option} {text!r} has an empty part: give a list like a,b,c")
    return parts


def reworded(option: OptionInfo, metavar: str, help_text: str) -> OptionInfo:
    """The same option for a command where it takes more values."""
    found = copy(option)
    found.metavar, found.help = metavar, help_text
    return found


def listed(option: OptionInfo, help_text: str | None = None) -> OptionInfo:
    """The same option for a command that takes a list of its values, separated by commas."""
    found = copy(option)
    # typer keeps the first name of an option in an Annotated as its default
    name = "/".join([str(option.default), *(option.param_decls or ())])
    parse = option.parser or str

    def parse_list(text: str) -> tuple[object, ...]:
        return several(name, text, parse)

    found.parser = parse_list
    found.metavar = option.metavar and f"{option.metavar.partition('|')[0]},..."
    found.help = help_text or option.help
    return found
