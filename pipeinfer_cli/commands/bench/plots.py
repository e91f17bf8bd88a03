"""A bench as a picture: speed over one column, with a panel for each value of the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeinfer_cli.commands.bench.rows import NUMBERS, Row
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.trace.sweep import plot_sweep

# What tells pipelines apart, and how it is said above a panel. Drafters and lengths are settings of
# a strategy: of these the best one counts.
PIPELINES = {
    "model_type": "{}",
    "emulate": "{}",
    "n_stages": "{} stages",
    "n_threads": "{} threads",
    "synth_acceptance": "synthetic acceptance {}",
}


def check_x(x: str | None, synth_acceptance: Iterable[str | None]) -> None:
    """UserError, before anything is measured, if `x` (None: chosen) is not a column of numbers."""
    is_number = x is None or x in NUMBERS
    if not is_number and x != "synth_acceptance":
        raise UserError(
            f"--plot-x {x!r}: give a column of numbers of -o csv, such as acceptance or n_stages"
        )
    for rate in synth_acceptance:
        if not is_number and rate is not None and _number(rate) is None:
            raise UserError(f"--plot-x {x}: {rate!r} is not a number: choose another column")


def draw(rows: Sequence[Row], path: Path, x: str | None) -> None:
    """Writes the picture; `x` as in `check_x`."""
    chosen = x or choose_x(rows)
    synthetic = any(row["synth_acceptance"] is not None for row in rows)
    title = "Speed, synthetic acceptance" if synthetic else "Speed"
    emulated = any(row["emulate"] is not None for row in rows)
    plot_sweep(
        [{**row, "panel": panel} for row, panel in zip(rows, panels(rows, chosen), strict=True)],
        path,
        x=chosen,
        title=title + (", emulated clusters" if emulated else ""),
        panel="panel",
    )


def choose_x(rows: Sequence[Row]) -> str:
    """The column to draw speed over: the first of the usual ones that varies."""
    rates = {_number(rate) for row in rows if (rate := row["synth_acceptance"]) is not None}
    if len(rates) > 1 and None not in rates:
        return "synth_acceptance"
    if _varies(rows, "n_stages"):
        return "n_stages"
    return "acceptance" if _varies(rows, "draft_model") else "draft_max"


def panels(rows: Sequence[Row], x: str) -> list[str]:
    """For each row the name of its panel: pipelines that would meet at the same `x` are parted."""
    parting: list[str] = []
    for column in PIPELINES:
        here = [(_place(row, x), *(_value(row, each, x) for each in parting)) for row in rows]
        met = {(place, _value(row, column, x)) for place, row in zip(here, rows, strict=True)}
        if column != x and len(met) > len(set(here)):
            parting.append(column)
    return [
        ", ".join(PIPELINES[each].format(_value(row, each, x)) for each in parting) for row in rows
    ]


def _value(row: Row, column: str, x: str) -> object:
    """Of a cluster with any number of stages, if that is drawn: `cpu70b-ib` for `cpu70b-8-ib`."""
    value = row[column]
    if column != "emulate" or x != "n_stages" or value is None:
        return value
    return "-".join(part for part in value.split("-") if part != str(row["n_stages"]))


def _place(row: Row, x: str) -> object:
    """What is measured differs from row to row: pipelines are not compared at it."""
    return row[x] if x in PIPELINES else None


def _varies(rows: Sequence[Row], column: str) -> bool:
    return len({row[column] for row in rows} - {None}) > 1


def _number(rate: str) -> float | None:
    try:
        return float(rate)
    except ValueError:  # a rate for each token ahead, or an informed drafter's
        return None
