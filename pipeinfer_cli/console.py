"""Text, tables, check lines and progress for people. The only module that imports rich."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

Activity = Literal["idle", "plain", "speculative", "cancelled", "drafting"]

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

REFRESHES_PER_S = 8
USUAL_SIZE = os.terminal_size((80, 24))
COLUMN_GAP = 2  # between columns of a table
LEAST_WRAPPED, MAX_COLUMN = 24, 64  # of the terminal's columns: for a text that is wrapped, or not
SHOW_CURSOR = "\x1b[?25h"
ACTIVITIES: dict[Activity, tuple[str, str]] = {  # a sign, for those who see no colours, and a style
    "idle": ("·", "dim"),
    "plain": ("■", "blue"),
    "speculative": ("▶", "cyan"),
    "cancelled": ("x", "red"),
    "drafting": ("●", "magenta"),
}


def printable(text: str) -> str:
    r"""The text with characters that a terminal would act on shown as escapes: `\x1b`.

    What a GGUF, a server or a folder says of itself may hold control characters, or turn the
    direction of the text around. Generated text is another matter: it goes out as it is.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]


def note(text: str) -> None:
    """A line on stderr that is not an error."""
    print(f"pipeinfer: note: {text}", file=sys.stderr)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    first: Sequence[str] = (),
    wrapped: Collection[str] = (),
) -> None:
    """A table on stdout: drawn on a terminal (see `draw_table`), tab-separated lines into a pipe.

    Cells may come from files: nothing in them reaches a terminal raw.
    """
    if sys.stdout.isatty():
        draw_table(header, rows, first=first, wrapped=wrapped)
        return
    for row in (header, *rows):
        print("\t".join(map(printable, row)))


def draw_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    first: Sequence[str] = (),
    numeric: Collection[str] = (),
    wrapped: Collection[str] = (),
    title: str = "",
) -> None:
    """Draws a table on the terminal on stdout, with as many of its columns as fit its width.

    They are taken in the order of `first`, then in their own; which ones were left out is said
    below. Columns of these headings are `numeric`, so aligned to the right, or may be `wrapped`.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    header, *rows = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [
        min(
            max(len(row[index]) for row in (header, *rows)),
            LEAST_WRAPPED if header[index] in wrapped else MAX_COLUMN,
        )
        for index in range(len(header))
    ]
    fitting = fitting_columns(header, widths, first, console.width)
    drawn = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, COLUMN_GAP - 1, 0, 0),  # and a space where other boxes have a line
        title=Text(title) if title else None,
        title_justify="left",
    )
    for index in fitting:
        name = header[index]
        drawn.add_column(
            Text(name),
            justify="right" if name in numeric else "left",
            no_wrap=name not in wrapped and len(fitting) > 1,
            min_width=min(widths[index], console.width),
            overflow="fold",
        )
    for row in rows:
        drawn.add_row(*(Text(row[index]) for index in fitting))
    console.print(drawn)
    if left_out := [name for index, name in enumerate(header) if index not in fitting]:
        names = ", ".join(left_out)
        console.print(Text(f"too narrow for: {names} (a pipe gets all columns)", style="dim"))


def fitting_columns(
    header: Sequence[str], widths: Sequence[int], first: Sequence[str], n_columns: int
) -> list[int]:
    """The indices of the columns that fit side by side, in their order; at least one.

    A column that does not fit does not keep out the ones after it.
    """
    order = {name: number for number, name in enumerate(first)}
    fitting: list[int] = []
    used = -COLUMN_GAP
    for index in sorted(range(len(header)), key=lambda i: order.get(header[i], len(order))):
        if not fitting or used + COLUMN_GAP + widths[index] <= n_columns:
            fitting.append(index)
            used += COLUMN_GAP + widths[index]
    return sorted(fitting)


def check_line(verdict: str, name: str, text: str, todo: str) -> None:
    """One line of doctor on stdout (two if something is to be done), coloured on a terminal."""
    line = f"{verdict:<6}  {name}: {text}"
    if not sys.stdout.isatty():
        print(line)
        if todo:
            print(f"        what to do: {todo}")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    colour = {"ok": "green", "not ok": "bold red"}.get(verdict, "yellow")
    console.print(Text(line[:6], style=colour) + Text(line[6:]))
    if todo:
        console.print(Text(f"        what to do: {todo}"))


@contextmanager
def progress(title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while the block runs; call the value with the bytes done so far.

    Off a terminal it is one line at the start.
    """
    if not sys.stderr.isatty():
        print(f"{title} ({size(total_bytes)})", file=sys.stderr)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda done_bytes: bar.update(task, completed=min(done_bytes, total_bytes))


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr while the block runs; call the value with how many are done.

    None off a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    console = Console(stderr=True)
    # Drawn seldom: its thread shares the head's cores.
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def items_bar(total: int | None, terminal: Terminal) -> Iterator[Callable[[int, str], None]]:
    """A bar on the terminal on stderr while the block runs.

    Call the value with how many are done, and a text about it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    # stderr may be a pipe to the process that has the terminal: rich must not find out for itself
    console = Console(file=sys.stderr, force_terminal=True, width=terminal.n_columns)
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    # Drawn seldom: its thread shares the head's cores.
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


def size(count_bytes: int) -> str:
    """Bytes for people: `98.4 MB`."""
    value = float(count_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def find_terminal() -> Terminal | None:
    """The terminal on stderr, with defaults for what is unknown; None if it is not one."""
    if not sys.stderr.isatty():
        return None
    size = os.get_terminal_size(sys.stderr.fileno())
    has_stdout = sys.stdout.isatty() and os.path.sameopenfile(1, 2)
    return Terminal(
        n_columns=size.columns or USUAL_SIZE.columns,
        n_lines=size.lines or USUAL_SIZE.lines,
        has_stdout=has_stdout,
    )


@contextmanager
def live_panel(show: Callable[[], Panel], terminal: Terminal) -> Iterator[Callable[[str], None]]:
    """Draws what `show` returns at the bottom of the terminal on stderr while the block runs.

    `show` is called on a thread of its own. The value puts text above the panel: that is the way
    for all text that goes to the same terminal. It stays there; the panel goes at the end.
    """
    from rich.console import Console
    from rich.live import Live

    # stderr may be a pipe to the process that has the terminal: rich must not find out for itself
    console = Console(
        file=sys.stderr, force_terminal=True, width=terminal.n_columns, height=terminal.n_lines
    )
    above = _TextAbove(console, show)
    live = Live(
        get_renderable=above.renderable,
        console=console,
        auto_refresh=False,  # rich's own thread does not wait until text is written
        transient=True,
        redirect_stdout=False,
    )
    is_over = threading.Event()

    def refresh() -> None:
        while not is_over.wait(1 / REFRESHES_PER_S):
            with above.writing:
                live.refresh()

    refreshing = threading.Thread(target=refresh, name="panel", daemon=True)
    try:
        with live:
            live.refresh()
            refreshing.start()
            try:
                yield above.put
            finally:
                is_over.set()
                refreshing.join()
    finally:
        above.end()


@contextmanager
def restored_terminal() -> Iterator[None]:
    """After a panel that another process has drawn, and may have been killed over it."""
    try:
        yield
    except BaseException:
        print(file=sys.stderr)  # what is left of the panel stays, and no error is put into it
        raise
    finally:
        print(SHOW_CURSOR, end="", file=sys.stderr, flush=True)


class _TextAbove:
    """Text over a panel: whole lines are printed for good, the last one is part of the panel."""

    def __init__(self, console: Console, show: Callable[[], Panel]) -> None:
        self._console = console
        self._show = show
        self._line = ""
        self.writing = threading.Lock()  # to the terminal: text, or the panel

    def put(self, text: str) -> None:
        """More of the text."""
        from rich.cells import chop_cells
        from rich.text import Text

        *whole, rest = (self._line + text).split("\n")
        # a line that is as wide as the terminal would be cut within the panel
        *full, last = chop_cells(rest, self._console.width) or [""]
        lines = [*whole, *full]
        with self.writing:
            self._line = last
            if lines:
                self._console.print(Text("\n".join(lines)), soft_wrap=True)

    def end(self) -> None:
        """The panel is gone: puts the last line, if the text did not end it."""
        if self._line:
            self._console.print(self._line, end="", markup=False, highlight=False, soft_wrap=True)

    def renderable(self) -> RenderableType:
        """The text's last line and the panel."""
        from rich.console import Group
        from rich.text import Text

        panel = drawn_panel(self._show(), self._console.width)
        return Group(Text(self._line, no_wrap=True), panel) if self._line else panel


def drawn_panel(panel: Panel, n_columns: int) -> RenderableType:
    """The panel for a terminal of this width."""
    from rich.panel import Panel as Frame
    from rich.table import Table
    from rich.text import Text

    rows = Table.grid(padding=(0, 2))
    for row in panel.rows:
        signs = Text()
        for activity in row.activities:
            sign, style = ACTIVITIES[activity]
            signs.append(sign, style=style)
        rows.add_row(Text(row.name), signs, Text(row.text, style="dim"))
    body = Table.grid()
    body.add_row(rows)
    body.add_row(Text(panel.summary))
    return Frame(body, title=Text(panel.title), title_align="left", width=min(n_columns, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """The terminal on stderr, as it was at the start."""

    n_columns: int
    n_lines: int
    has_stdout: bool  # stdout is the same terminal


@dataclass(frozen=True, slots=True)
class Row:
    """A place of the pipeline, and what it is doing."""

    name: str
    activities: tuple[Activity, ...]  # one, or those of many stages
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """All that is shown."""

    title: str
    rows: tuple[Row, ...]
    summary: str
