"""Speed over a sweep, a line per strategy, from the rows of `pipeinfer bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.trace.gantt import FAINT, INK, figure_for

Points = list[tuple[float, float]]
Looks = Mapping[str, tuple[str, str]]  # by strategy: colour and marker

ALONE_INCHES, PANEL_INCHES, HEIGHT_INCHES = 8.5, 5.5, 5.2
MAX_COLUMNS = 3  # of panels
LABELS = {  # of the usual keys; others are shown as they are
    "synth_acceptance": "synthetic acceptance: how often a drafted token is right",
    "acceptance": "share of the drafted tokens that is accepted",
    "rate": "how often a drafted token is right",
    "n_stages": "stages",
    "draft_max": "most drafted tokens per run",
}
LOOKS: Looks = {
    "iterative": ("#6B6B6B", "s"),
    "speculative": ("#E69F00", "^"),
    "pipeinfer": ("#0072B2", "o"),
    "auto": ("#009E73", "D"),
}
OTHER_LOOKS = [("#CC79A7", "v"), ("#56B4E9", "P"), ("#8C510A", "X"), ("#999999", "*")]


def plot_sweep(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    x: str = "acceptance",
    y: str = "median_ts",
    y_label: str = "tokens per second",
    title: str = "",
    panel: str | None = None,
) -> None:
    """Draws `y` against `x` for each strategy: with the best of its settings at every point.

    With `panel`, a key, rows with another value for it have a panel of their own, named by it.
    Rows have the keys `strategy`, `x` and `y`; those without a value for `x` (a strategy that does
    not draft has no acceptance rate) count for all of the axis. UserError if nothing is left.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault(str(row[panel]) if panel else "", []).append(row)
    drawn = {name: best_by_strategy(each, x, y) for name, each in panels.items()}
    drawn = {name: lines for name, lines in drawn.items() if lines}
    if not drawn:
        raise UserError(f"--plot {str(path)!r}: no row has numbers for {x} and {y}")
    others = iter(OTHER_LOOKS * len(rows))
    strategies = dict.fromkeys(strategy for lines in drawn.values() for strategy in lines)
    looks = {each: LOOKS.get(each) or next(others) for each in strategies}
    n_columns = min(len(drawn), MAX_COLUMNS)
    n_rows = -(-len(drawn) // n_columns)
    width = ALONE_INCHES if n_columns == 1 else PANEL_INCHES * n_columns
    with figure_for(path, HEIGHT_INCHES * n_rows, width_inches=width) as figure:
        grid: Any = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(drawn) :]:
            axes.set_visible(False)
        for axes, (name, lines) in zip(grid.flat, drawn.items(), strict=False):
            _draw_panel(axes, lines, looks, x)
            axes.set_title(name, loc="left", fontsize=11, color=INK)
        grid[0][0].set_ylim(bottom=0)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)


def _draw_panel(axes: Any, lines: Mapping[str, Points], looks: Looks, x: str) -> None:
    for strategy, points in lines.items():
        colour, marker = looks[strategy]
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, markersize=7, linewidth=2.4)
    axes.set_xlabel(LABELS.get(x, x))
    if x in ("n_stages", "draft_max"):
        ticks = sorted({value for points in lines.values() for value, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    _name_lines(axes, lines, looks)
    axes.grid(axis="y", color=FAINT)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def best_by_strategy(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> dict[str, Points]:
    """For each strategy its largest `y` at each `x`, in the order of `x`."""
    found: dict[str, dict[float, float]] = {}
    everywhere: dict[str, float] = {}
    for row in rows:
        strategy, at, value = str(row["strategy"]), row.get(x), row.get(y)
        if value is None:
            continue
        if at is None or (strategy == "iterative" and x != "n_stages"):
            everywhere[strategy] = max(float(value), everywhere.get(strategy, 0.0))
        else:
            points = found.setdefault(strategy, {})
            points[float(at)] = max(float(value), points.get(float(at), 0.0))
    all_x = {at for points in found.values() for at in points}
    for strategy, value in everywhere.items():
        if strategy not in found and all_x:
            found[strategy] = dict.fromkeys((min(all_x), max(all_x)), value)
    order = [*LOOKS, *sorted(set(found) - set(LOOKS))]
    return {each: sorted(found[each].items()) for each in order if each in found}


def _name_lines(axes: Any, lines: Mapping[str, Points], looks: Looks) -> None:
    """Each line's name at its right end, moved apart where they would touch."""
    top = max(value for points in lines.values() for _, value in points)
    below = -top
    for strategy, points in sorted(lines.items(), key=lambda line: line[1][-1][1]):
        at, value = points[-1]
        below = max(value, below + 0.055 * top)
        name = f"   {strategy}"
        axes.text(at, below, name, color=looks[strategy][0], fontweight="bold", va="center")
    axes.margins(x=0.04)
