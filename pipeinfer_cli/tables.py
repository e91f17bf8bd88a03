"""Tables: records as Markdown or aligned text for people, as CSV or JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TextIO

from pipeinfer_cli import console

Record = dict[str, Any]  # values by name


@dataclass(frozen=True, slots=True)
class Column:
    """What people see of a record."""

    name: str
    text: Callable[[Record], str]
    numeric: bool = True  # aligned to the right
    width: int = 0  # at least


class Format:
    """How records are written: the text before the first, of each, and after the last."""

    separator = ""  # between two records

    def head(self) -> str:
        """Also of a table without records."""
        return ""

    def row(self, record: Record) -> str:
        """Of one record."""
        raise NotImplementedError

    def tail(self) -> str:
        """Also of a table without records."""
        return ""


class Markdown(Format):
    """A table with the columns' widths: `fitted` makes them wide enough for all records."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def head(self) -> str:
        """Names, and a rule that tells how a column is aligned."""
        rules = ["-" * (each.width - each.numeric) + ":" * each.numeric for each in self._columns]
        return self._line([each.name for each in self._columns]) + self._line(rules)

    def row(self, record: Record) -> str:
        """A line."""
        return self._line([each.text(record) for each in self._columns])

    def _line(self, cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_padded, self._columns, cells))} |\n"


class Csv(Format):
    """Names, then a line for each record; what is neither text nor None is written as JSON."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def head(self) -> str:
        """The names."""
        return _csv_line(self._names)

    def row(self, record: Record) -> str:
        """A line."""
        return _csv_line([_csv_value(record[name]) for name in self._names])


class Json(Format):
    """A list of objects."""

    separator = ",\n"

    def head(self) -> str:
        """Its beginning."""
        return "[\n"

    def row(self, record: Record) -> str:
        """An object."""
        return _json(record, indent=2)

    def tail(self) -> str:
        """Its end."""
        return "\n]\n"


class JsonLines(Format):
    """An object in each line."""

    def row(self, record: Record) -> str:
        """A line."""
        return _json(record) + "\n"


class Writer:
    """Writes records as they come, each at once.

    Use it as a context manager: what was begun is well formed however the block ends.
    """

    def __init__(self, form: Format, stdout: TextIO = sys.stdout) -> None:
        self._form = form
        self._stdout = stdout
        self.records: list[Record] = []  # so far

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.records:
            self._put(self._form.head())
        self._put(self._form.tail())

    def add(self, records: Iterable[Record]) -> None:
        """More of them."""
        for record in records:
            before = self._form.separator if self.records else self._form.head()
            self._put(before + self._form.row(record))
            self.records.append(record)

    def _put(self, text: str) -> None:
        self._stdout.write(text)
        self._stdout.flush()


class DrawnWriter(Writer):
    """Draws a table on the terminal on stdout for all records that come together."""

    def __init__(self, columns: Sequence[Column], *, first: Sequence[str] = ()) -> None:
        super().__init__(Format())
        self._columns, self._first = columns, first

    def add(self, records: Iterable[Record]) -> None:
        """More of them: a table of their own."""
        new = list(records)
        draw(self._columns, new, first=self._first)
        self.records += new


def draw(
    columns: Sequence[Column],
    records: Sequence[Record],
    *,
    first: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draws the records on the terminal on stdout; see console.draw_table.

    After the columns that are named first come those whose values differ from record to record.
    """
    cells = [[each.text(record) for each in columns] for record in records]
    differing = [
        each.name
        for each, values in zip(columns, zip(*cells, strict=True), strict=False)
        if len(set(values)) > 1
    ]
    console.draw_table(
        [each.name for each in columns],
        cells,
        first=list(dict.fromkeys((*first, *differing))),
        numeric=[each.name for each in columns if each.numeric],
        title=title,
    )


def text_of(form: Format, records: Iterable[Record]) -> str:
    """The whole table."""
    return form.head() + form.separator.join(map(form.row, records)) + form.tail()


def fitted(columns: Sequence[Column], records: Sequence[Record]) -> list[Column]:
    """The columns, each wide enough for its name and all records."""
    return [
        replace(each, width=max(map(len, (each.name, *map(each.text, records)))))
        for each in columns
    ]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, with columns of even width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _padded(column: Column, cell: str) -> str:
    return cell.rjust(column.width) if column.numeric else cell.ljust(column.width)


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value)  # numbers, true and false, lists


def _json(record: Record, indent: int | None = None) -> str:
    text = json.dumps(record, ensure_ascii=False, indent=indent)
    # Bytes of a file's name that are not text: the escapes \udc80 to \udcff are JSON's, too.
    return text.encode(errors="backslashreplace").decode()
