"""Options, and parsers of their values, that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from pipeinfer_cli.errors import UserError

Chat = Annotated[
    bool,
    typer.Option("--chat", help="The prompt is a user's message, in the model's chat template."),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="Of a chat: what the model is told first."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; may be given repeatedly."),
]

T = TypeVar("T")


def integer(text: str) -> int:
    """A whole number, or an error that names what was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def integer_or_auto(text: str) -> int | None:
    """A whole number, or None for `auto`."""
    return None if text == "auto" else integer(text)


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


def integers(text: str) -> int | tuple[int, ...]:
    """`8` as a number, `8,8,4` as a list, or an error that names what was given."""
    numbers = tuple(integer(part) for part in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


DraftMax = Annotated[
    str,
    typer.Option(
        "--draft-max",
        metavar="N|auto",
        help="Drafted tokens per run at most; speculative drafts that many. "
        "auto: as many as pay, by measured costs.",
    ),
]
Threads = Annotated[
    Any,  # config.Threads: typer knows no unions, but leaves it to the parser
    typer.Option(
        "-t",
        "--threads",
        parser=integers,
        metavar="N|N,N,...",
        help="Threads per rank, or a list of them by rank; default: share of cores.",
    ),
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Print what each rank would hold, and where; load nothing.")
]
ReportBinding = Annotated[
    bool,
    typer.Option(
        "--report-binding", help="Say on stderr each rank's host, cores, threads and layers."
    ),
]
LogFile = Annotated[
    str | None,
    typer.Option(
        "--log-file",
        metavar="PATH",
        help="Append what each rank does to a log; {rank} gives each a file of its own.",
    ),
]
