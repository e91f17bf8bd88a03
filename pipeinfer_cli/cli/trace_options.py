"""The command line's options for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE.json", help="Write a trace of the runs, for Perfetto."),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.svg|png", help="Draw what drafter and stages did, and when."
    ),
]
PlotWindow = Annotated[
    str | None,
    typer.Option(
        "--plot-window",
        metavar="START:END",
        help="Draw this part, in ms from the request's start; default: the first seconds.",
    ),
]
Live = Annotated[
    bool, typer.Option("--live", help="Show on stderr what the stages are doing during generation.")
]
