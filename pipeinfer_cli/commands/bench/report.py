"""Rows of a bench as a table, Markdown, CSV or JSON on stdout, as llama-bench writes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from pipeinfer_cli import tables
from pipeinfer_cli.commands.bench.config import OutputFormat
from pipeinfer_cli.commands.bench.rows import COLUMNS
from pipeinfer_cli.tables import Column, Record

SPEED = "t/s (p10-p90)"
# Of what people look at, this comes first where there is not room for all of it.
FIRST = ("strategy", SPEED, "x iterative", "identical", "accepted", "x speculative")
IDENTICAL = {True: "yes", False: "NO", None: "?"}


def report(
    output: OutputFormat, *, optional: Sequence[str] = (), stdout: TextIO = sys.stdout
) -> tables.Writer:
    """`optional`: columns that people see besides, since they differ from row to row."""
    columns = md_columns(optional)
    if output == "auto" and stdout.isatty():
        return tables.DrawnWriter(columns, first=FIRST)
    forms: dict[OutputFormat, tables.Format] = {
        "auto": tables.Markdown(columns),
        "md": tables.Markdown(columns),
        "csv": tables.Csv(COLUMNS),
        "json": tables.Json(),
        "jsonl": tables.JsonLines(),
    }
    return tables.Writer(forms[output], stdout)


def md_columns(optional: Sequence[str]) -> list[Column]:
    """What people look at, with a few more."""
    return [
        Column("model", lambda row: str(row["model_type"]), numeric=False, width=24),
        Column("ranks", lambda row: str(row["n_ranks"]), width=5),
        Column("stages", lambda row: str(row["n_stages"]), width=6),
        Column("strategy", lambda row: str(row["strategy"]), numeric=False, width=23),
        Column("drafter", lambda row: str(row["drafter"]), numeric=False, width=9),
        Column("draft-max", _draft_max, width=9),
        *map(_optional, optional),
        Column(SPEED, _speed, width=22),
        Column("x iterative", lambda row: _or_blank(row["speedup"], ".2f"), width=11),
        Column("x speculative", _over_speculative, width=13),
        Column("accepted", _accepted, width=8),
        Column("length", lambda row: f"{row['mean_acceptance_length']:.2f}", width=6),
        Column("identical", lambda row: IDENTICAL[row["identical"]], width=9),
    ]


def _optional(name: str) -> Column:
    is_long = name == "draft_model"
    return Column(
        name,
        lambda row: _or_blank(row[name], ""),
        numeric=not is_long,
        width=26 if is_long else 12,
    )


def _draft_max(row: Record) -> str:
    return "auto" if row["draft_auto_length"] else _or_blank(row["draft_max"], "d")


def _speed(row: Record) -> str:
    return f"{row['median_ts']:.2f} ({row['p10_ts']:.2f}-{row['p90_ts']:.2f})"


def _over_speculative(row: Record) -> str:
    return _or_blank(row["speedup_over_speculative"], ".2f")


def _accepted(row: Record) -> str:
    return f"{row['acceptance']:.0%}" if row["n_drafted"] else ""


def _or_blank(value: Any, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
