"""`--trace`, `--plot` and `--live` with a real model on real ranks."""

import json
import subprocess
from functools import cache

import pytest

from small_models import without_layers
from support import PROMPTS, check_output, mpiexec, pipeinfer, run, smollm2, smollm2_args
from terminal import run_on_terminal, wrapped
from trace_check import check_agrees, check_format, load, slices

pytestmark = pytest.mark.e2e

PROMPT = PROMPTS[1]
N_PREDICT = 24


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    """A draft model that is often wrong."""
    folder = tmp_path_factory.mktemp("draft")
    return str(without_layers(smollm2(), folder / "draft.gguf", {9, 14, 19, 24}))


@cache
def plain_text():
    return check_output(pipeinfer(*smollm2_args("--ranks", "1", "--strategy", "iterative", PROMPT)))


def check_trace(path, shown):
    trace = load(path)
    check_format(trace)
    check_agrees(trace, shown["stats"])
    assert trace["otherData"]["n_runs"] == shown["stats"]["n_runs"]
    return trace


@pytest.mark.parametrize("strategy", ["iterative", "speculative", "pipeinfer", "auto"])
def test_the_trace_agrees_with_the_stats(strategy, draft, tmp_path):
    path = tmp_path / "trace.json"
    out = check_output(
        pipeinfer(
            *smollm2_args("--ranks", "3", "-md", draft, "--strategy", strategy, "--draft-max", "2"),
            *("-pa", "0", "--trace", str(path), "--format", "json", PROMPT),
        )
    )
    shown = json.loads(out)
    assert shown["text"] + "\n" == plain_text()
    trace = check_trace(path, shown)
    if strategy == "speculative":  # elsewhere it depends on who is faster
        assert slices(trace, "draft")
        assert shown["stats"]["n_drafted"] > shown["stats"]["n_accepted"] > 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_head_with_layers_and_a_plot_under_a_launcher(ranks, tmp_path):
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.png"
    out = check_output(
        mpiexec(
            ranks,
            *smollm2_args("--trace", str(trace), "--plot", str(plot), "--strategy", "pipeinfer"),
            *("--plot-window", "0:300", "--format", "json", PROMPT),
        )
    )
    links = slices(check_trace(trace, json.loads(out)), "link")
    assert bool(links) == (ranks > 1)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plot", "plot.gif"], "ends with .svg or .png"),
        (["--plot", "plot.svg", "--plot-window", "soon"], "500:2000"),
        (["--trace", "no/such/folder/trace.json"], "no such folder"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(options, said, tmp_path):
    done = subprocess.run(
        pipeinfer(*smollm2_args("--ranks", "2", *options, PROMPT)),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_live_without_a_terminal_says_so_and_writes_the_text(ranks):
    done = run(pipeinfer(*smollm2_args("--ranks", ranks, "--live", PROMPT)))
    assert (done.returncode, done.stdout) == (0, plain_text())
    assert done.stderr == "pipeinfer: note: no --live panel: stderr is not a terminal\n"


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_live_on_the_terminal_of_the_text_leaves_the_text(ranks):
    seen = run_on_terminal(pipeinfer(*smollm2_args("--ranks", ranks, "--live", PROMPT)))
    assert seen.code == 0
    assert seen.lines == wrapped(plain_text().removesuffix("\n"))
    assert not seen.is_cursor_hidden
    assert any("pipeinfer --strategy auto" in line for line in seen.frames)
    assert any("tok/s" in line for line in seen.frames)


def test_live_beside_a_text_that_goes_elsewhere():
    command = pipeinfer(*smollm2_args("--ranks", "2", "--live", "--stats", PROMPT))
    seen = run_on_terminal(command, pipe_stdout=True)
    assert (seen.code, seen.stdout) == (0, plain_text())
    assert any("stage 1" in line for line in seen.frames)
    assert seen.lines[0].startswith("pipeinfer: auto, 2 ranks"), "the panel goes"


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_the_terminal_is_restored_after_ctrl_c(ranks):
    first_line = wrapped(plain_text())[0]
    endless = smollm2_args("--ranks", ranks, "--live", "--ignore-eos", PROMPT, n_predict=3000)
    seen = run_on_terminal(pipeinfer(*endless, "-c", "3500"), interrupt_at=first_line)
    assert seen.code == 130
    assert seen.lines[-1] == "pipeinfer: error: interrupted by SIGINT"
    assert not seen.is_cursor_hidden
    assert seen.lines[0] == first_line, "text that was produced is kept"
