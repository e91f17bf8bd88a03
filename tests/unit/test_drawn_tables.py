"""Tables on a terminal: they fit its width, and what is left out is what matters least."""

from __future__ import annotations

import io
import re

import pytest

from pipeinfer_cli import console, tables
from pipeinfer_cli.cli import main
from pipeinfer_cli.tables import Column

STYLE = re.compile(r"\x1b\[[0-9;]*m")
HEADER = ("name", "size", "note")
ROWS = [("one", "12 MB", "some words of a long text"), ("three", "1 MB", "\x1b[31mred")]


class Terminal(io.StringIO):
    """A terminal as a program sees it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Makes stdout a terminal of a width."""

    def make(n_columns: int) -> Terminal:
        stdout = Terminal()
        monkeypatch.setattr("sys.stdout", stdout)
        monkeypatch.setenv("COLUMNS", str(n_columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        return stdout

    return make


def lines(stdout: Terminal, n_columns: int) -> list[str]:
    shown = [STYLE.sub("", line).rstrip() for line in stdout.getvalue().splitlines()]
    assert all(len(line) <= n_columns for line in shown), shown
    return [line for line in shown if line]


def test_all_columns_where_there_is_room(terminal) -> None:
    stdout = terminal(60)
    console.draw_table(HEADER, ROWS, numeric=("size",))
    header, _, one, three = lines(stdout, 60)
    assert header.split() == ["name", "size", "note"]
    assert one.index("MB") == three.index("MB")
    assert "\\x1b[31mred" in three


@pytest.mark.parametrize(
    ("first", "n_columns", "shown", "left_out"),
    [
        ((), 16, "name   size", "note"),
        (("note",), 34, "name   note", "size"),
        (("size",), 8, "size", "name, note"),
    ],
)
def test_what_matters_most_stays(terminal, first, n_columns, shown, left_out) -> None:
    stdout = terminal(n_columns)
    console.draw_table(HEADER, ROWS, first=first)
    found = lines(stdout, n_columns)
    assert found[0].strip() == shown
    said = " ".join(found[4:])
    assert said.replace(" ", "").startswith(f"toonarrowfor:{left_out}".replace(" ", ""))


def test_long_texts_are_wrapped(terminal) -> None:
    stdout = terminal(40)
    console.draw_table(("name", "note"), [("a", "word " * 20)], wrapped=("note",))
    shown = lines(stdout, 40)
    assert "".join(shown).count("word") == 20
    assert "too narrow" not in shown[-1]


@pytest.mark.parametrize("n_columns", [1, 5])
def test_a_terminal_narrower_than_any_column(terminal, n_columns) -> None:
    stdout = terminal(n_columns)
    console.draw_table(HEADER, ROWS)
    assert "".join(lines(stdout, n_columns)).startswith("name")


def test_what_differs_comes_before_what_does_not(terminal) -> None:
    columns = [Column(name, lambda record, name=name: record[name]) for name in ("a", "b", "c")]
    records = [{"a": "same" * 3, "b": "1", "c": "x" * 12}, {"a": "same" * 3, "b": "2", "c": "y"}]
    stdout = terminal(16)
    tables.draw(columns, records)
    assert lines(stdout, 16)[0].split() == ["b", "c"]


def test_a_table_without_records_has_its_header(terminal) -> None:
    stdout = terminal(20)
    with tables.DrawnWriter([Column("a", str)]) as writer:
        writer.add([])
    assert lines(stdout, 20)[0] == "a"


SIMULATE = ("simulate", "-n", "40", "--draft-max", "1,3", "--acceptance", "0.5,0.9")


@pytest.mark.parametrize("n_columns", [60, 80, 200])
def test_simulate_fits(terminal, n_columns) -> None:
    stdout = terminal(n_columns)
    assert main.main(list(SIMULATE)) == 0
    shown = lines(stdout, n_columns)
    (header,) = (line for line in shown if "strategy" in line and "too narrow" not in line)
    for name in ("acceptance", "strategy", "draft max", "tok/s", "x iterative"):
        assert name in header
    assert "|" not in stdout.getvalue()


def test_markdown_on_a_terminal_if_asked_for(terminal) -> None:
    stdout = terminal(60)
    assert main.main([*SIMULATE, "-o", "md"]) == 0
    assert "| profile " in stdout.getvalue()


@pytest.mark.parametrize(("n_columns", "n_shown"), [(80, 5), (60, 4)])
def test_models_list_fits(terminal, n_columns: int, n_shown: int) -> None:
    stdout = terminal(n_columns)
    assert main.main(["models", "list"]) == 0
    names = ["name", "size", "cached", "SHA-256", "description"]
    assert lines(stdout, n_columns)[0].split() == (
        names if n_shown == 5 else [*names[:3], names[4]]
    )
