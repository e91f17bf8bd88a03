"""Tables, check lines and progress for people. The only module that imports rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: drawn by rich on a terminal, tab-separated lines into a pipe."""
    if not sys.stdout.isatty():
        for row in (header, *rows):
            print("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*header, box=box.SIMPLE)
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn, markup=False)


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


def size(count_bytes: int) -> str:
    """Bytes for people: `98.4 MB`."""
    value = float(count_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
