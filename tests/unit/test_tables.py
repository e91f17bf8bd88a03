"""Tables: alignment for people, values for programs, and what is well formed without records."""

from __future__ import annotations

import csv
import io
import json

import pytest

from pipeinfer_cli import tables
from pipeinfer_cli.tables import Column

RECORDS = [
    {"name": "one", "count": 1, "share": 0.5, "is_right": True, "parts": [1, 2], "none": None},
    {
        "name": 'the "2nd"\n',
        "count": 22,
        "share": 1e-7,
        "is_right": False,
        "parts": [],
        "none": None,
    },
]
COLUMNS = [
    Column("name", lambda record: record["name"].split()[0], numeric=False),
    Column("n", lambda record: str(record["count"])),
]
CSV = tables.Csv(list(RECORDS[0]))
FORMATS = [tables.Markdown(COLUMNS), CSV, tables.Json(), tables.JsonLines()]


def test_markdown_columns_fit_their_records() -> None:
    form = tables.Markdown(tables.fitted(COLUMNS, RECORDS))
    assert tables.text_of(form, RECORDS).splitlines() == [
        "| name |  n |",
        "| ---- | -: |",
        "| one  |  1 |",
        "| the  | 22 |",
    ]


def test_aligned_lines_end_without_spaces() -> None:
    lines = tables.aligned([("a", "b"), ("longer", ""), ("", "c")])
    assert lines == ["a       b", "longer", "        c"]


def test_csv_has_what_is_not_text_as_json() -> None:
    text = tables.text_of(CSV, RECORDS)
    read = list(csv.DictReader(io.StringIO(text)))
    for seen, record in zip(read, RECORDS, strict=True):
        assert (seen["name"], seen["none"]) == (record["name"], "")
        for name in ("count", "share", "is_right", "parts"):
            assert json.loads(seen[name]) == record[name]


def test_json_and_its_lines_are_the_records() -> None:
    assert json.loads(tables.text_of(tables.Json(), RECORDS)) == RECORDS
    lines = tables.text_of(tables.JsonLines(), RECORDS).splitlines()
    assert [json.loads(line) for line in lines] == RECORDS


def test_bytes_of_a_files_name_are_escapes_in_json() -> None:
    assert tables.text_of(tables.JsonLines(), [{"a": "\udcff\u20ac"}]) == '{"a": "\\udcff\u20ac"}\n'


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("n_records", [0, 1, 2])
def test_a_writer_writes_the_same_text_bit_by_bit(form: tables.Format, n_records: int) -> None:
    stdout = io.StringIO()
    with tables.Writer(form, stdout) as writer:
        for record in RECORDS[:n_records]:
            writer.add([record])
    assert stdout.getvalue() == tables.text_of(form, RECORDS[:n_records])
    assert writer.records == RECORDS[:n_records]


def test_a_writer_that_is_interrupted_leaves_what_is_well_formed() -> None:
    stdout = io.StringIO()

    def interrupted() -> None:
        with tables.Writer(tables.Json(), stdout) as writer:
            writer.add(RECORDS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(stdout.getvalue()) == RECORDS
