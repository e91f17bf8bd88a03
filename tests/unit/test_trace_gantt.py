"""Plots: files of the right kind with what they must name; which points a sweep draws."""

import pytest

from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.trace.gantt import Chart, default_window, plot_runs
from pipeinfer_cli.trace.sweep import best_by_strategy, plot_sweep
from pipeinfer_cli.trace.timeline import timeline
from virtual_cluster import VirtualCluster, generate

PNG = b"\x89PNG\r\n"


def titled(strategy="pipeinfer", n_tokens=30, **costs):
    wrong = range(5, 500, 4)
    cluster = VirtualCluster(3, **costs)
    _, _, recorder = generate(cluster, n_tokens=n_tokens, strategy=strategy, wrong=wrong)
    return Chart(title=f"the {strategy} one", timeline=timeline(recorder.recording()))


def test_a_gantt_chart_names_rows_colours_and_runs(tmp_path):
    path = tmp_path / "plot.svg"
    plot_runs([titled(), titled("iterative")], path)
    svg = path.read_text()
    for word in ("the pipeinfer one", "the iterative one", "drafter", "stage 2", "text"):
        assert f"<!-- {word} -->" in svg
    for word in ("prompt", "tokens of the text", "wrong drafts", "wrong, aborted", "cancel"):
        assert f"<!-- {word} -->" in svg


def test_the_legend_says_what_is_seen_only(tmp_path):
    path = tmp_path / "plot.svg"
    plot_runs([titled("iterative")], path, window_ms=(200, 400))
    svg = path.read_text()
    assert "<!-- tokens of the text -->" in svg
    assert not any(f"<!-- {word} -->" in svg for word in ("prompt", "wrong drafts", "cancel"))


def test_png(tmp_path):
    path = tmp_path / "plot.png"
    plot_runs([titled()], path)
    assert path.read_bytes().startswith(PNG)


def test_a_plot_that_cannot_be_written_is_a_run_error(tmp_path):
    path = tmp_path / "plot.png"
    path.mkdir()
    with pytest.raises(RunError, match="cannot write the plot"):
        plot_runs([titled()], path)


def test_the_window_is_all_of_a_short_run_and_the_beginning_of_a_long_one():
    short, long = titled(), titled("iterative", 60, stage_us=100_000)
    recording = short.timeline.recording
    assert default_window([short]) == (0.0, recording.end_s - recording.start_s)
    begin_s, end_s = default_window([long])
    first_s = long.timeline.recording.decided_s[0] - long.zero_s
    assert (begin_s, end_s) == (first_s, first_s + 1.5)


def row(strategy, acceptance, median_ts, draft_max=4, n_stages=8):
    return {
        "strategy": strategy,
        "acceptance": acceptance,
        "median_ts": median_ts,
        "draft_max": draft_max,
        "n_stages": n_stages,
    }


ROWS = [
    row("iterative", None, 1.0),
    row("speculative", 0.9, 3.0, 2),
    row("speculative", 0.9, 4.0, 4),
    row("speculative", 0.5, 2.0, 2),
    row("pipeinfer", 0.5, 2.5),
    row("pipeinfer", 0.9, 6.0),
    row("new", 0.9, 7.0),
    row("pipeinfer", 0.7, None),
]


def test_a_sweep_draws_each_strategy_at_its_best():
    assert best_by_strategy(ROWS, "acceptance", "median_ts") == {
        "iterative": [(0.5, 1.0), (0.9, 1.0)],
        "speculative": [(0.5, 2.0), (0.9, 4.0)],
        "pipeinfer": [(0.5, 2.5), (0.9, 6.0)],
        "new": [(0.9, 7.0)],
    }
    by_stages = best_by_strategy(ROWS, "n_stages", "median_ts")
    assert by_stages["iterative"] == [(8.0, 1.0)]


@pytest.mark.parametrize("x", ["acceptance", "n_stages", "draft_max"])
def test_a_sweep_names_its_lines(x, tmp_path):
    path = tmp_path / "sweep.svg"
    plot_sweep(ROWS, path, x=x, title="all of them")
    svg = path.read_text()
    for word in ("iterative", "speculative", "pipeinfer", "new", "all of them"):
        assert f"{word} -->" in svg


def test_a_sweep_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no row has numbers for acceptance"):
        plot_sweep([row("pipeinfer", 0.5, None)], tmp_path / "sweep.svg")
