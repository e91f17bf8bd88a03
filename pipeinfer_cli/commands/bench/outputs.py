"""Files that a bench writes besides its table: a plot, a trace, recorded acceptance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import check_writable


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Which of them are wanted. Raises UserError where a name is invalid."""

    plot: str | None = None  # speed over what varies
    plot_x: str | None = None  # a column; None: see commands.bench.plots.choose_x
    trace: str | None = None  # a Chrome trace of one request
    trace_of: str | None = None  # a variant's name; None: the last one
    acceptance: str | None = None  # for each token the last variant's candidates

    def __post_init__(self) -> None:
        if self.plot is not None and Path(self.plot).suffix not in (".svg", ".png"):
            raise UserError(f"--plot {self.plot!r}: give a name that ends with .svg or .png")
        if self.plot_x is not None and self.plot is None:
            raise UserError(f"--plot-x {self.plot_x} requires --plot FILE")
        if self.trace_of is not None and self.trace is None:
            raise UserError(f"--trace-of {self.trace_of} requires --trace FILE")
        if self.acceptance is not None and not self.acceptance.endswith(".json"):
            raise UserError(
                f"--record-acceptance {self.acceptance!r}: give a name that ends with .json, for "
                "simulate --acceptance"
            )

    def _files(self) -> Iterator[tuple[str, str]]:
        for option, file in (
            ("--plot", self.plot),
            ("--trace", self.trace),
            ("--record-acceptance", self.acceptance),
        ):
            if file is not None:
                yield option, file

    def check(self) -> None:
        """UserError, on the rank that leads the bench, if something cannot be written."""
        for option, file in self._files():
            check_writable(option, file)
        if self.plot is not None:
            from pipeinfer_cli.trace import gantt

            gantt.check_installed()


NO_OUTPUTS = Outputs()
