"""What a bench writes besides its table: which plot, whose trace, and the drafter's acceptance."""

from __future__ import annotations

from typing import Any

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.cluster.acceptance.recording import MAX_CANDIDATES, RecordedToken
from pipeinfer_cli.commands.bench import plots
from pipeinfer_cli.commands.bench.config import BenchConfig
from pipeinfer_cli.commands.bench.outputs import Outputs
from pipeinfer_cli.commands.bench.post_run import recorded_tokens
from pipeinfer_cli.commands.bench.rows import COLUMNS
from pipeinfer_cli.drafters.ngram import NgramDrafter


def row(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS), "strategy": "pipeinfer", "median_ts": 1.0, **values}


RATES = [row(synth_acceptance=rate, n_stages=4) for rate in ("0.5", "0.9")]
STAGES = [row(emulate=f"c-{n}-ib", n_stages=n) for n in (4, 8)]
NETWORKS = [row(emulate=f"c-{n}-{net}", n_stages=n) for n in (4, 8) for net in ("ib", "gbe")]


@pytest.mark.parametrize(
    ("rows", "x"),
    [
        (RATES, "synth_acceptance"),
        (STAGES, "n_stages"),
        ([*RATES, *(row(synth_acceptance="0.5", n_stages=8),)], "synth_acceptance"),
        (
            [row(draft_model=name, acceptance=a) for name, a in (("a", 0.5), ("b", 0.8))],
            "acceptance",
        ),
        ([row(draft_max=n) for n in (None, 2, 4)], "draft_max"),
        ([row(synth_acceptance="0.8/0.7", draft_max=2)], "draft_max"),
        ([row(synth_acceptance=rate, draft_max=2) for rate in ("0.5", "0.9", "1/0")], "draft_max"),
    ],
)
def test_what_varies_is_the_axis(rows, x) -> None:
    assert plots.choose_x(rows) == x


@pytest.mark.parametrize(
    ("rows", "x", "expected"),
    [
        (RATES, "synth_acceptance", [""] * 2),
        (STAGES, "n_stages", [""] * 2),
        (NETWORKS, "n_stages", ["c-ib", "c-gbe"] * 2),
        ([row(n_stages=n, draft_max=d) for n in (1, 2) for d in (2, 4)], "n_stages", [""] * 4),
        (
            [row(n_stages=n, n_threads=t) for n in (1, 2) for t in (1, 2)],
            "n_stages",
            ["1 threads", "2 threads"] * 2,
        ),
        (
            [row(n_stages=n, acceptance=n / 9) for n in (1, 2)],
            "acceptance",
            ["1 stages", "2 stages"],
        ),
        (
            [
                row(emulate=f"c-{n}-ib", n_stages=n, synth_acceptance=r)
                for n in (4, 8)
                for r in "01"
            ],
            "synth_acceptance",
            ["c-4-ib", "c-4-ib", "c-8-ib", "c-8-ib"],
        ),
    ],
)
def test_pipelines_that_would_meet_have_panels(rows, x, expected) -> None:
    assert plots.panels(rows, x) == expected


def test_a_plot_with_panels_names_them(tmp_path) -> None:
    path = tmp_path / "plot.svg"
    iterative = [{**each, "strategy": "iterative"} for each in NETWORKS]
    plots.draw([*NETWORKS, *iterative], path, None)
    svg = path.read_text()
    for word in ("c-ib", "c-gbe", "iterative", "pipeinfer", "stages", "Speed, emulated clusters"):
        assert f"<!-- {word} -->" in svg or f"{word} -->" in svg


def test_mixed_rates_are_drawn_as_panels(tmp_path) -> None:
    path = tmp_path / "plot.svg"
    rates = ("0.5", "0.9", "0.8/0.7", "0.8:informed")
    plots.draw(
        [row(synth_acceptance=rate, draft_max=n) for rate in rates for n in (2, 4)], path, None
    )
    for rate in rates:
        assert f"synthetic acceptance {rate} -->" in path.read_text()


@pytest.mark.parametrize("x", [None, "n_stages", "median_ts", "identical", "synth_acceptance"])
def test_axes_that_are_numbers(x) -> None:
    plots.check_x(x, ("0.5", "0.9", None))


# which group and variant


def config(**changes: Any) -> BenchConfig:
    values = {"models": ("m",), "n_predict": 8, "draft": {"n_max": (2, 4)}, **changes}
    return BenchConfig(**values)


def test_the_last_group_traces_the_last_variant_or_the_named_one() -> None:
    outputs = Outputs(trace="/t.json", acceptance="/a.json")
    first, last = config(ranks=(1, 2), outputs=outputs).groups((), "")
    assert (first.trace, first.acceptance) == (None, None)
    assert (last.trace, last.acceptance) == ("/t.json", "/a.json")
    assert last.variants[last.traced] is last.variants[-1]
    named = Outputs(trace="/t.json", trace_of="speculative")
    (group,) = config(outputs=named).groups((), "")
    traced = group.variants[group.traced]
    assert traced.draft is not None
    assert (traced.name, traced.draft.n_max) == ("speculative", 4)


PLOT_RATES = ("--plot", "x.svg", "--plot-x", "synth_acceptance")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--plot", "x.pdf"], "ends with .svg or .png"),
        (["--plot-x", "n_stages"], "--plot-x n_stages requires --plot"),
        (["--plot", "x.svg", "--plot-x", "speed"], "--plot-x 'speed': give a column of numbers"),
        (["--plot", "x.svg", "--plot-x", "model_type"], "'model_type': give a column of numbers"),
        (
            [*PLOT_RATES, "--synth-acceptance", "0.5,0.8/0.7"],
            "synth_acceptance: '0.8/0.7' is not a number",
        ),
        (["--trace-of", "pipeinfer"], "--trace-of pipeinfer requires --trace"),
        (["--trace", "x", "--trace-of", "other"], "--trace-of other: give one of those"),
        (["--record-acceptance", "x"], "ends with .json"),
        (["--record-acceptance", "x.json", "--strategy", "iterative"], "no --strategy drafts"),
        (["--record-acceptance", "x.json", "--synth-acceptance", "0.5"], "leave one out"),
        (["--trace", "/no/folder/x.json"], "there is no such folder"),
    ],
)
def test_bad_options(args, said, capsys) -> None:
    assert main.main(["bench", "-m", "m", *args]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# the drafter's acceptance


class Plus:
    """Right but at two positions, and silent at one."""

    def expand(self, batch, is_wanted):
        assert batch.branches == ((),)
        assert batch.n_candidates == MAX_CANDIDATES
        position = batch.n_text
        if position in (5, 9):
            return [[(0, 0.7), (position, 0.123456789)]]
        return [[] if position == 6 else [(position, 0.01)]]  # however unsure it is


def test_the_drafter_is_asked_position_by_position() -> None:
    tokens = list(recorded_tokens(Plus(), range(3), range(3, 11)))
    sure, second = RecordedToken(0, (0.01,)), RecordedToken(1, (0.7, 0.12346))
    #                 3     4     5                       6     7     8     9       10
    assert tokens == [sure, sure, second, RecordedToken(None, ()), sure, sure, second, sure]


def test_a_token_that_is_not_among_the_candidates() -> None:
    (token,) = recorded_tokens(Plus(), range(3), [99])
    assert token == RecordedToken(None, (0.01,))


def test_a_repeated_text_is_known_from_its_second_time_on() -> None:
    tokens = list(recorded_tokens(NgramDrafter(), [1], [2, 3, 4, 1, 2, 3, 4, 1]))
    assert [token.rank for token in tokens] == [None] * 5 + [0] * 3
