"""Options, and parsers of their values, that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def integer(text: str) -> int:
    """A whole number, or an error that names what was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number, or an error that names what was given."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def integers(text: str) -> int | tuple[int, ...]:
    """`8` as a number, `8,8,4` as a list, or an error that names what was given."""
    numbers = tuple(integer(part) for part in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


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
