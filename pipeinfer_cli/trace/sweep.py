"""Speed over a sweep, a line per strategy, from the rows of `pipeinfer bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.trace.plot import FAINT, INK, figure_for

Points = list[tuple[float, float]]
Looks = Mapping[str, tuple[str, str]]  # by strategy: colour and marker

LABELS = {  # of the usual keys; others are shown as they are
    "acceptance": "share of the drafted tokens that is accepted",
    "n_stages": "stages",
    "draft_max": "drafted tokens per run at most",
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
) -> None:
    """Draws `y` against `x` for each strategy: with the best of its settings at every point.

    Rows have the keys `strategy`, `x` and `y`; those without a value for `x` (a strategy that does
    not draft has no acceptance rate) count for all of the axis. UserError if nothing is left.
    """
    lines = best_by_strategy(rows, x, y)
    if not lines:
        raise UserError(f"--plot {str(path)!r}: no row has numbers for {x} and {y}")
    with figure_for(path, 5.2, width_inches=8.5) as figure:
        axes: Any = figure.subplots()
        others = iter(OTHER_LOOKS * len(lines))
        looks = {each: LOOKS.get(each) or next(others) for each in lines}
        for strategy, points in lines.items():
            colour, marker = looks[strategy]
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=colour, marker=marker, markersize=7, linewidth=2.4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(LABELS.get(x, x))
        axes.set_ylabel(y_label)
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
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)


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
