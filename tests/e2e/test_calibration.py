"""Calibration on real ranks: a profile that can be used, jobs that use it, and the same text."""

import json
import os
import subprocess

import pytest

from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.predict import SIZES
from pipeinfer_cli.commands.calibrate.measure import DRAFT_SIZES
from support import check_output, mpiexec, pipeinfer, smollm2

pytestmark = pytest.mark.e2e

REQUEST = ["-n", "12", "-c", "128", "-t", "1", "--format", "json", "Once upon a time"]


@pytest.fixture
def cache(tmp_path):
    """An environment with a cache of its own, without models."""
    return {**os.environ, "PIPEINFER_CACHE": str(tmp_path / "cache")}


def run(command, env):
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def times_of(profile):
    for stage in profile.stages:
        assert [size for size, _ in stage.points] == list(SIZES)
        times_ms = [ms for _, ms in stage.points]
        assert times_ms == sorted(times_ms)
        assert 0 < times_ms[0] < times_ms[-1]


def test_later_jobs_use_a_calibration_and_write_the_same_text(cache):
    model = str(smollm2())
    generate = pipeinfer("generate", "-m", model, "--ranks", "2", "-v", *REQUEST)
    before = run(generate, cache)
    assert "layers are even by bytes: not calibrated" in before.stderr
    options = ("--ranks", "2", "-t", "1", "-c", "128", "-r", "2", "--calibrate")
    measured = run(pipeinfer("bench", "-m", model, *options), cache)
    path = measured.stdout.strip()
    assert path.startswith(cache["PIPEINFER_CACHE"])
    assert "calibrating: repetition 2 of 2" in measured.stderr
    profile = profile_toml.load(path)
    assert (profile.n_stages, profile.hidden_bytes) == (2, 4 * 576)
    times_of(profile)
    after = run(generate, cache)
    assert f"layers are even by time, as calibrated in {path}" in after.stderr
    assert f"run sizes start from the times in {path}" in after.stderr
    assert json.loads(after.stdout)["tokens"] == json.loads(before.stdout)["tokens"]


def test_a_draft_model_is_measured_and_the_profile_is_one_to_simulate(cache, tmp_path):
    model, path = str(smollm2()), tmp_path / "here.toml"
    options = ("-md", model, "-t", "1", "-c", "128", "-r", "1", "--calibrate-to", str(path))
    assert run(mpiexec(3, "bench", "-m", model, *options), cache).stdout.strip() == str(path)
    profile = profile_toml.load(str(path))
    times_of(profile)
    assert profile.n_stages == 2
    assert profile.draft_ms > 0.1  # no lookup is that slow, no model so fast
    assert [size for size, _ in profile.draft.points] == list(DRAFT_SIZES)
    assert profile.draft.ms(max(DRAFT_SIZES)) > profile.draft_ms
    simulated = json.loads(
        check_output(
            pipeinfer(
                *("simulate", "--profile", str(path), "--acceptance", "0.8", "-n", "50"),
                *("--draft-max", "4", "-o", "json"),
            )
        )
    )
    assert [row["profile"] for row in simulated] == ["here"] * 3
    found = run(
        mpiexec(
            3, "generate", "-m", model, "-md", model, "-v", "--strategy", "pipeinfer", *REQUEST
        ),
        cache,
    )
    assert "run sizes start from the times in" in found.stderr
    plain = run(pipeinfer("generate", "-m", model, "--ranks", "1", *REQUEST), cache)
    assert json.loads(found.stdout)["tokens"] == json.loads(plain.stdout)["tokens"]


def test_a_bench_draws_traces_and_records(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one two three four " * 4 + "one\n---\nThe capital of France is\n")
    plot, trace, recorded = (tmp_path / name for name in ("p.svg", "t.json", "a.json"))
    check_output(
        pipeinfer(
            *("bench", "-m", "smollm2", "--ranks", "2", "-t", "1", "-c", "128", "-r", "1"),
            *("-n", "8", "-p", str(prompts), "--draft-max", "2,4", "--no-warmup"),
            *("--plot", str(plot), "--trace", str(trace), "--record-acceptance", str(recorded)),
        )
    )
    assert "pipeinfer -->" in plot.read_text()
    traced = json.loads(trace.read_text())
    assert traced["otherData"]["strategy"] == "pipeinfer"
    assert traced["otherData"]["n_generated"] == 8
    recording = json.loads(recorded.read_text())
    assert (recording["drafter"], recording["draft_model"]) == ("ngram", "")
    assert recording["target"].startswith("smollm2")
    assert len(recording["tokens"]) == 16
    assert all(token["rank"] == 0 for token in recording["tokens"][:8])  # it repeats itself
    shown = check_output(
        pipeinfer("simulate", "--acceptance", str(recorded), "-n", "16", "--draft-max", "4")
    )
    assert str(recorded) in shown
