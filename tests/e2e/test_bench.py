"""`pipeinfer bench` with a real model on real ranks: rows, formats, and what Ctrl-C keeps."""

import csv
import io
import json
import os
import signal
import subprocess
import time

import pytest

from support import check_output, mpiexec, pipeinfer

pytestmark = pytest.mark.e2e

STRATEGIES = "iterative,speculative,pipeinfer,pipeinfer:no-cancel:no-reactive,auto"


@pytest.fixture
def small(tmp_path):
    """Arguments of a bench of seconds; the second prompt repeats itself, so that n-grams help."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The capital of France is\n---\n" + "one two three four " * 4 + "one\n")
    options = ["-n", "10", "-c", "256", "-t", "1", "-r", "1", "--draft-max", "2,4"]
    return ["bench", "-m", "smollm2", "-p", str(prompts), *options]


def test_strategies_on_two_ranks_are_measured_and_right(small):
    shown = json.loads(
        check_output(pipeinfer(*small, "--ranks", "2", "--strategy", STRATEGIES, "-o", "json"))
    )
    labels = [(row["strategy"], row["draft_max"]) for row in shown]
    ablated = "pipeinfer:no-cancel:no-reactive"
    assert labels == [
        ("iterative", None),
        *((name, n) for name in ("speculative", "pipeinfer", ablated, "auto") for n in (2, 4)),
    ]
    for row in shown:
        assert row["identical"] is True
        assert (row["n_ranks"], row["n_stages"]) == (2, 2)
        assert (row["n_prompts"], row["repetitions"], row["n_generated"]) == (2, 1, 20)
        assert row["median_ts"] > 0
        assert row["p10_ts"] <= row["median_ts"] <= row["p90_ts"]
        assert row["speedup"] > 0
        assert row["model_type"] == "llama 135M Q4_1"
        assert row["model_n_params"] == 134515008
        assert len(row["busy_ms"]) == 2
        assert 0 <= row["acceptance"] <= 1
    assert shown[0]["n_drafted"] == 0
    assert shown[1]["n_accepted"] > 0
    for row in shown:
        if row["strategy"] == ablated:
            assert row["n_cancelled"] == 0


def test_without_options_drafts_are_trees_in_batches_and_the_paper_s_stay_chains(small):
    lengths = small.index("--draft-max")
    out = check_output(
        pipeinfer(
            *small[:lengths],
            *("--ranks", "2", "-md", "smollm2", "--drafter", "both", "-o", "jsonl"),
            *("--strategy", "speculative,pipeinfer,auto,pipeinfer:paper"),
        )
    )
    rows = {row["strategy"]: row for row in map(json.loads, out.splitlines())}
    for name, row in rows.items():
        assert row["identical"] is True, name
        assert (row["draft_is_auto"], row["draft_width"]) == (True, 1)
        # whether the others draft depends on what it costs here, next to what it gains
        assert row["n_expanded"] == 0 or name != "pipeinfer:paper", "only what is chosen is counted"


def test_draft_models_are_loaded_once_and_the_head_has_no_layers(small):
    out = check_output(
        pipeinfer(
            *small,
            *("--ranks", "3", "-md", "smollm2", "--drafter", "model,both", "-pa", "0"),
            *("--strategy", "speculative", "-o", "jsonl"),
        )
    )
    shown = [json.loads(line) for line in out.splitlines()]
    assert [(row["drafter"], row["draft_max"]) for row in shown] == [
        ("model", 2),
        ("model", 4),
        ("both", 2),
        ("both", 4),
    ]
    for row in shown:
        assert row["identical"] is True  # compared with a plain pass of its own
        assert row["speedup"] is None
        assert (row["n_ranks"], row["n_stages"]) == (3, 2)
    assert [row["acceptance"] for row in shown[:2]] == [1.0, 1.0]


def test_csv_of_one_rank(small):
    out = check_output(pipeinfer(*small, "--ranks", "1", "-o", "csv"))
    found = list(csv.DictReader(io.StringIO(out)))
    first = found[0]
    assert (first["strategy"], first["draft_max"], first["identical"]) == ("iterative", "", "true")
    strategies = [row["strategy"] for row in found]
    assert strategies == ["iterative", *["speculative"] * 2, *["auto"] * 2, *["pipeinfer"] * 2]


def test_under_a_launcher_groups_follow_one_another_in_one_world(small):
    more = ["--strategy", "iterative,pipeinfer", "--draft-max", "4", "-t", "1,2"]
    shown = json.loads(check_output(mpiexec(2, *small, *more, "-r", "2", "-o", "json")))
    assert [(row["strategy"], row["n_threads"]) for row in shown] == [
        ("iterative", 1),
        ("pipeinfer", 1),
        ("iterative", 2),
        ("pipeinfer", 2),
    ]
    for row in shown:
        assert (row["identical"], row["n_ranks"], row["repetitions"]) == (True, 2, 2)


def test_an_emulated_cluster_with_synthetic_acceptance(small, tmp_path):
    (tmp_path / "one.txt").write_text("Once upon a time")
    done = subprocess.run(
        pipeinfer(
            *small,
            *("-p", str(tmp_path / "one.txt"), "--no-warmup", "--draft-max", "4", "-o", "json"),
            *("--emulate", "cpu70b-4-gbe", "--synth-acceptance", "0.9,0.9/0.1"),
        ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [row["synth_acceptance"] for row in shown] == ["0.9"] * 4 + ["0.9/0.1"] * 4
    assert [row["drafter"] for row in shown] == ["none", *["synthetic"] * 3] * 2
    for row in shown:
        assert (row["emulate"], row["n_ranks"], row["n_stages"]) == ("cpu70b-4-gbe", 5, 4)
        assert row["identical"] is True
        assert row["n_late"] >= 0
    assert "synthetic acceptance 0.9/0.1" in done.stderr


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_ctrl_c_keeps_what_was_measured(small, ranks, tmp_path):
    process = subprocess.Popen(
        pipeinfer(*small, "--ranks", ranks, "-r", "10000", "-o", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    deadline = time.monotonic() + 90
    while sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("*/record")) < 24:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    shown = json.loads(out)
    assert shown[0]["strategy"] == "iterative"
    assert len(shown) == 7
    assert all(row["identical"] and row["repetitions"] >= 1 for row in shown)
    assert err.splitlines()[-1] == "pipeinfer: error: interrupted by SIGINT"
    assert list(tmp_path.glob("pipeinfer-*")) == []


def test_a_prompt_that_does_not_fit_is_named(small):
    done = subprocess.run(
        pipeinfer(*small, "--ranks", "2", "-n", "250"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "prompt 2 leaves room for 240 of 250 tokens" in done.stderr.splitlines()[-1]


def test_under_a_launcher_prompts_that_are_not_there_end_all_ranks():
    command = mpiexec(2, "bench", "-m", "smollm2", "-p", "/no/prompts.txt")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pipeinfer: error: cannot read the prompts '/no/prompts.txt'" in done.stderr
