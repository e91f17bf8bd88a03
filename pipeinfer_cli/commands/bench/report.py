"""Rows as Markdown, CSV or JSON on stdout, as llama-bench writes them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TextIO

from pipeinfer_cli.commands.bench.config import OutputFormat
from pipeinfer_cli.commands.bench.rows import COLUMNS, Row

WIDTHS = {"draft_model": -26}  # of columns that md shows where they differ
# Shown by md: title, width (negative: to the left), and text of a row.
Column = tuple[str, int, Callable[[Row], str]]


class Report:
    """Use it as a context manager: what was begun is well formed however the bench ends."""

    def __init__(
        self, output: OutputFormat, *, optional: Sequence[str] = (), stdout: TextIO = sys.stdout
    ) -> None:
        """`optional`: columns that md shows beside its own, since they differ from row to row."""
        self._output = output
        self._columns = md_columns(optional)
        self._stdout = stdout
        self.rows: list[Row] = []  # so far

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.rows:
            self._put(self._header())
        if self._output == "json":
            self._put("\n]\n")

    def add(self, rows: Sequence[Row]) -> None:
        """More rows, at once on stdout."""
        for row in rows:
            if not self.rows:
                self._put(self._header())
            self._put(self._row(row))
            self.rows.append(row)

    def _header(self) -> str:
        if self._output == "md":
            titles = [f"{title:{_align(width)}}" for title, width, _ in self._columns]
            lines = [
                "-" * abs(width) if width < 0 else "-" * (width - 1) + ":"
                for _, width, _ in self._columns
            ]
            return _md_line(titles) + _md_line(lines)
        if self._output == "csv":
            return _csv_line(COLUMNS)
        return "[\n" if self._output == "json" else ""

    def _row(self, row: Row) -> str:
        if self._output == "md":
            return _md_line([f"{text(row):{_align(width)}}" for _, width, text in self._columns])
        if self._output == "csv":
            return _csv_line([_csv_value(value) for value in row.values()])
        if self._output == "jsonl":
            return _json(row) + "\n"
        separator = ",\n" if self.rows else ""
        return separator + _json(row, indent=2)

    def _put(self, text: str) -> None:
        self._stdout.write(text)
        self._stdout.flush()


def md_columns(optional: Sequence[str]) -> list[Column]:
    """What people look at, with a few more."""
    return [
        ("model", -24, lambda row: str(row["model_type"])),
        ("ranks", 5, lambda row: str(row["n_ranks"])),
        ("stages", 6, lambda row: str(row["n_stages"])),
        ("strategy", -23, lambda row: str(row["strategy"])),
        ("drafter", -9, lambda row: str(row["drafter"])),
        ("draft-max", 9, _draft_max),
        *((name, WIDTHS.get(name, 12), _text_of(name)) for name in optional),
        ("t/s (p10-p90)", 22, _speed),
        ("x iterative", 11, lambda row: _or_blank(row["speedup"], ".2f")),
        ("x speculative", 13, lambda row: _or_blank(row["speedup_over_speculative"], ".2f")),
        ("accepted", 8, lambda row: f"{row['acceptance']:.0%}" if row["n_drafted"] else ""),
        ("length", 6, lambda row: f"{row['mean_acceptance_length']:.2f}"),
        ("identical", 9, lambda row: {True: "yes", False: "NO", None: "?"}[row["identical"]]),
    ]


def _text_of(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else str(row[name])


def _draft_max(row: Row) -> str:
    return "auto" if row["draft_auto_length"] else _or_blank(row["draft_max"], "d")


def _speed(row: Row) -> str:
    return f"{row['median_ts']:.2f} ({row['p10_ts']:.2f}-{row['p90_ts']:.2f})"


def _or_blank(value: Any, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _align(width: int) -> str:
    return f"<{-width}" if width < 0 else f">{width}"


def _md_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _json(row: Row, indent: int | None = None) -> str:
    text = json.dumps(row, ensure_ascii=False, indent=indent)
    # Bytes of a file's name that are no text: the escapes \udc80 to \udcff are JSON's, too.
    return text.encode(errors="backslashreplace").decode()


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value)  # numbers, true and false, lists
