"""Which pictures of a generation to draw: part of its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.console import Terminal
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import check_writable


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What to draw. Raises UserError where it is built if a value is invalid."""

    trace: str | None = None  # the file of a Chrome trace
    plot: str | None = None  # the file of a Gantt chart
    plot_window_ms: tuple[float, float] | None = None  # from the request's start
    live: bool = False  # a panel on stderr while the text comes
    terminal: Terminal | None = None  # where to draw the panel, if it can be drawn

    def __post_init__(self) -> None:
        if self.plot is not None and Path(self.plot).suffix not in (".svg", ".png"):
            raise UserError(f"--plot {self.plot!r}: give a name that ends with .svg or .png")
        if self.plot_window_ms is not None:
            if self.plot is None:
                raise UserError("--plot-window requires --plot FILE")
            begin_ms, end_ms = self.plot_window_ms
            if not (math.isfinite(end_ms) and 0 <= begin_ms < end_ms):
                raise UserError(
                    f"--plot-window {begin_ms:g}:{end_ms:g}: give two times in ms, the later one "
                    "last"
                )

    @classmethod
    def from_options(
        cls, trace: Path | None, plot: Path | None, plot_window: str | None, live: bool
    ) -> Pictures:
        """What the command line asks for."""
        return cls(
            trace=None if trace is None else str(trace),
            plot=None if plot is None else str(plot),
            plot_window_ms=None if plot_window is None else _parse_window(plot_window),
            live=live,
        )

    def check(self) -> None:
        """UserError, on the rank that is to write the files, if it cannot."""
        for option, file in (("--trace", self.trace), ("--plot", self.plot)):
            if file is not None:
                check_writable(option, file)
        if self.plot is not None:
            from pipeinfer_cli.trace import gantt

            gantt.check_installed()


NO_PICTURES = Pictures()


def _parse_window(text: str) -> tuple[float, float]:
    try:
        begin, end = (float(each) for each in text.split(":"))
    except ValueError:
        raise UserError(f"--plot-window {text!r}: give a time window in ms like 500:2000") from None
    return begin, end
