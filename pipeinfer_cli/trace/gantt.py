"""Pictures by matplotlib: who was busy with what, and speed over a sweep. Needs the extra `plot`.

Colours are told apart by colour-blind readers, too (after Okabe and Ito, "Color Universal Design").
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pipeinfer_cli import files
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.trace.timeline import Outcome, StageSpan, Timeline

INSTALL = "pip install 'matplotlib>=3.8'"
WINDOW_S = 1.5  # shown of a long run, from its first token on
LONG_S = 2.5
WIDTH_INCHES = 14.0
ROW_INCHES = 0.42
MAX_ROWS_INCHES = 12.0

DRAFT_COLOUR = "#CC79A7"
COLOURS = {
    Outcome.PREFILL: "#A8B2BA",
    Outcome.ACCEPTED: "#0072B2",
    Outcome.WRONG: "#F0B030",
    Outcome.ABORTED: "#C23B00",
}
MEANINGS = {
    Outcome.PREFILL: "prompt",
    Outcome.ACCEPTED: "tokens of the text",
    Outcome.WRONG: "wrong drafts",
    Outcome.ABORTED: "wrong, aborted",
}
INK = "#222222"
FAINT = "#DDDDDD"
BAR = 0.66  # height of a bar in its row


def check_installed() -> None:
    """UserError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"--plot needs matplotlib: {INSTALL}, or leave --plot out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A timeline and what is said above it."""

    title: str
    timeline: Timeline

    @property
    def zero_s(self) -> float:
        """The time that is shown as 0: the request's start."""
        return self.timeline.recording.start_s


def plot_runs(
    runs: Sequence[Chart], path: Path, *, window_ms: tuple[float, float] | None = None
) -> None:
    """Writes a Gantt chart for each of the runs, one below the other, on the same time axis.

    `window_ms` counts from each request's start; None: all of it, or the beginning of a long text.
    """
    window_s = (window_ms[0] / 1e3, window_ms[1] / 1e3) if window_ms else default_window(runs)
    n_rows = [each.timeline.recording.n_stages + 2 for each in runs]
    height = min(MAX_ROWS_INCHES, ROW_INCHES * sum(n_rows)) + 0.75 * len(runs) + 0.7
    with figure_for(path, height) as figure:
        grid: Any = figure.subplots(
            len(runs), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": n_rows}
        )
        charts = [_Gantt(axes, each, window_s) for axes, each in zip(grid[:, 0], runs, strict=True)]
        for chart in charts:
            chart.draw()
        grid[-1, 0].set_xlabel("milliseconds from the request's start")
        _legend(figure, charts)


def default_window(runs: Sequence[Chart]) -> tuple[float, float]:
    """Seconds from the requests' start: all of it, or from the first token on."""
    length_s = max(each.timeline.recording.end_s - each.zero_s for each in runs)
    if length_s <= LONG_S:
        return (0.0, length_s or 1e-3)
    firsts_s = [
        each.timeline.recording.decided_s[0] - each.zero_s
        for each in runs
        if each.timeline.recording.decided_s
    ]
    begin_s = min(firsts_s, default=0.0)
    return (begin_s, min(begin_s + WINDOW_S, length_s))


class _Gantt:
    """One chart: rows for the text, the drafter and the stages, from the top down."""

    def __init__(self, axes: Any, run: Chart, window_s: tuple[float, float]) -> None:
        self._axes = axes
        self._run = run
        self._window_s = window_s
        self._n_stages = run.timeline.recording.n_stages
        drawn = run.timeline
        self.spans = [each for each in drawn.spans if self._is_seen(each.begin_s, each.end_s)]
        self.drafts = [each for each in drawn.drafts if self._is_seen(each.begin_s, each.end_s)]
        self.effects = [
            each for each in drawn.effects if self._is_seen(each.sent_s, each.span.end_s)
        ]

    def draw(self) -> None:
        self._frame()
        self._drafts()
        self._stages()
        self._links()
        self._cancels()
        self._text()

    def _frame(self) -> None:
        axes, n_stages = self._axes, self._n_stages
        axes.set_xlim(*(1e3 * each for each in self._window_s))
        axes.set_ylim(n_stages + 0.5, -1.6)
        axes.set_yticks([-1, 0, *range(1, n_stages + 1)])
        axes.set_yticklabels(["text", "drafter", *(f"stage {stage}" for stage in range(n_stages))])
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=True)
        for row in range(n_stages + 1):  # an idle row is seen as such
            axes.axhspan(row - BAR / 2, row + BAR / 2, color="#F4F4F4", zorder=0, linewidth=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.set_title(self._run.title, loc="left", fontsize=12, fontweight="bold", color=INK)

    def _ms(self, time_s: float) -> float:
        return 1e3 * (time_s - self._run.zero_s)

    def _is_seen(self, begin_s: float, end_s: float) -> bool:
        first_s, last_s = self._window_s
        return end_s - self._run.zero_s >= first_s and begin_s - self._run.zero_s <= last_s

    def _bars(
        self,
        row: float,
        intervals: Sequence[tuple[float, float]],
        colour: str,
        shares: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        """Bars of [begin, end) seconds in a row; `shares` [low, high) of the height, 0 below."""
        from matplotlib.collections import PolyCollection

        if not intervals:
            return
        corners = []
        for (begin_s, end_s), (low, high) in zip(
            intervals, shares or [(0.0, 1.0)] * len(intervals), strict=True
        ):
            left, right = self._ms(begin_s), self._ms(end_s)
            below, above = row + BAR * (0.5 - low), row + BAR * (0.5 - high)
            corners.append([(left, below), (left, above), (right, above), (right, below)])
        shown_s = self._window_s[1] - self._window_s[0]
        # a white edge tells neighbours apart, but would hide bars that are hardly wider
        narrow = median(end_s - begin_s for begin_s, end_s in intervals) / shown_s < 1 / 400
        self._axes.add_collection(
            PolyCollection(
                corners,
                facecolor=colour,
                edgecolor="white",
                linewidth=0.15 if narrow else 0.5,
                zorder=2,
            )
        )

    def _drafts(self) -> None:
        self._bars(0, [(each.begin_s, each.end_s) for each in self.drafts], DRAFT_COLOUR)

    def _stages(self) -> None:
        for stage in range(self._n_stages):
            for outcome, colour in COLOURS.items():
                bars = [p for p in self.spans if (p.stage, p.outcome) == (stage, outcome)]
                self._outcome(stage + 1, bars, colour)
        skipped = [p for p in self.spans if p.outcome is Outcome.CANCELLED]
        self._axes.plot(
            [self._ms(span.begin_s) for span in skipped],
            [span.stage + 1 for span in skipped],
            linestyle="none",
            marker="x",
            markersize=4,
            markeredgewidth=1.0,
            color=COLOURS[Outcome.ABORTED],
            zorder=4,
        )

    def _outcome(self, row: int, bars: Sequence[StageSpan], colour: str) -> None:
        intervals = [(span.begin_s, span.end_s) for span in bars]
        right = [span.n_right / max(span.n_tokens, 1) for span in bars]
        if bars and bars[0].outcome is Outcome.ACCEPTED:
            self._bars(row, intervals, colour, [(0.0, share) for share in right])
            partly = [i for i, share in enumerate(right) if share < 1]
            self._bars(
                row,
                [intervals[i] for i in partly],
                COLOURS[Outcome.WRONG],
                [(right[i], 1.0) for i in partly],
            )
        else:
            self._bars(row, intervals, colour)

    def _links(self) -> None:
        """A line from the row that a run leaves to the one at which it arrives."""
        from matplotlib.collections import LineCollection

        lines = []
        for each in self._run.timeline.transfers:
            is_inner = 0 < each.link < self._n_stages
            if is_inner and each.outcome is not Outcome.CANCELLED:
                begin = (self._ms(each.begin_s), each.link + BAR / 2)
                lines.append([begin, (self._ms(each.end_s), each.link + 1 - BAR / 2)])
        self._axes.add_collection(LineCollection(lines, colors="#888888", linewidths=0.9, zorder=1))

    def _cancels(self) -> None:
        """An arrow from the cancel's sending, in the text's row, to the compute that it ended."""
        style = {
            "arrowstyle": "-|>",
            "color": COLOURS[Outcome.ABORTED],
            "linewidth": 1.0,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        for effect in self.effects:
            end = (self._ms(effect.span.end_s), effect.span.stage + 1 - BAR / 2)
            sent = (self._ms(effect.sent_s), -0.7)
            self._axes.annotate(
                "", xy=end, xytext=sent, arrowprops=style, annotation_clip=True, zorder=5
            )

    def _text(self) -> None:
        """A tick for each token; those that one result decided stand side by side."""
        first_s, last_s = self._window_s
        times_ms = []
        gap_ms = 1e3 * (last_s - first_s) / 500
        for record in self._run.timeline.recording.runs:
            at_ms = self._ms(record.result_s)
            times_ms += [at_ms + i * gap_ms for i in range(len(record.decided))]
        self._axes.vlines(times_ms, -1.4, -0.7, color=INK, linewidth=1.6, zorder=3)


def _legend(figure: Any, charts: Sequence[_Gantt]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    red = COLOURS[Outcome.ABORTED]
    seen = {span.outcome for chart in charts for span in chart.spans}
    entries: dict[str, Any] = {
        "a token of the text": Line2D([], [], color=INK, marker="|", ls="none", markersize=10)
    }
    if any(chart.drafts for chart in charts):
        entries["a token is drafted"] = Patch(color=DRAFT_COLOUR)
    entries |= {MEANINGS[o]: Patch(color=colour) for o, colour in COLOURS.items() if o in seen}
    if Outcome.CANCELLED in seen:
        entries["wrong, never computed"] = Line2D([], [], color=red, marker="x", ls="none")
    if any(chart.effects for chart in charts):
        entries["cancel"] = Line2D([], [], color=red, marker=">", markersize=5)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper right",
        ncols=len(entries),
        frameon=False,
        fontsize=9.5,
    )


@contextmanager
def figure_for(
    path: Path, height_inches: float, *, width_inches: float = WIDTH_INCHES
) -> Iterator[Any]:
    """A figure that is written to the path at the end of the block."""
    check_installed()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"font.size": 11, "axes.edgecolor": "#888888"}
    with rc_context(style):
        figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            with open(path, "wb", opener=files.opener) as file:
                figure.savefig(file, dpi=110, format=path.suffix[1:])
        except OSError as error:
            raise RunError(f"cannot write the plot {str(path)!r}: {error.strerror}") from None
