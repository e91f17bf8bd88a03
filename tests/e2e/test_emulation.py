"""`pipeinfer generate --emulate` and `--synth-acceptance`, as people call them."""

import json

import pytest

from pipeinfer_cli.engine.vocab import Vocab
from support import (
    PROMPTS,
    check_output,
    mpiexec,
    pipeinfer,
    plain_decode,
    run,
    smollm2,
    smollm2_request,
)

pytestmark = pytest.mark.e2e

N_PREDICT = 16
JSON = ("--format", "json", "--stats")
PROFILE = """
n_stages = 2
hidden_bytes = 8192
draft_ms = 0.5
[stage]
base_ms = 8.0
token_ms = 0.5
[link]
latency_us = 50
gbit_per_s = 1.0
"""


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(PROFILE)
    return str(path)


def generate(*options, model="smollm2"):
    command = ("generate", "-m", model, "-n", str(N_PREDICT), "-c", "256", *options, PROMPTS[1])
    return run(pipeinfer(*command), timeout_s=100)


def test_an_emulated_cluster_writes_the_text_of_plain_decoding(profile):
    options = ("--emulate", profile, "--strategy", "pipeinfer", "--format", "json", "--stats")
    done = generate(*options)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    prompt = Vocab(smollm2()).tokenize(PROMPTS[1])
    plain = plain_decode(smollm2_request([prompt], N_PREDICT, 256))
    assert shown["tokens"] == plain[0]["tokens"]
    assert (shown["stats"]["n_ranks"], shown["stats"]["n_stages"]) == (3, 2)
    assert shown["emulation"]["profile"] == "small"
    assert shown["emulation"]["n_computed"] >= 2 * (N_PREDICT - 1)
    assert "synthetic" not in shown
    assert ", emulated small" in done.stderr


def test_a_synthetic_text_is_marked_and_the_same_for_all_strategies(profile, tmp_path):
    texts, trace = [], tmp_path / "trace.json"
    for strategy in ("iterative", "pipeinfer"):
        options = ("--synth-acceptance", "0.8/0.7", "--seed", "5", "--strategy", strategy)
        done = generate("--emulate", profile, *options, "--trace", str(trace), *JSON)
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert trace.read_text().count("synthetic acceptance 0.8/0.7") == 1
        assert shown["synthetic"] == {
            "acceptance": [0.8, 0.7],
            "confidence": "plain",
            "seed": 5,
        }
        assert "pipeinfer: note: synthetic: acceptance 0.8/0.7" in done.stderr
        assert ", synthetic acceptance 0.8/0.7" in done.stderr
        texts.append(shown["tokens"])
    assert texts[0] == texts[1]
    assert len(texts[0]) == N_PREDICT


def test_synthetic_verdicts_need_no_emulation():
    done = generate("--synth-acceptance", "0.9", "--ranks", "1")
    assert done.returncode == 0
    assert "the text is not the model's" in done.stderr


def test_a_launcher_starts_the_ranks(profile):
    command = ("generate", "-m", "smollm2", "-n", "4", "-c", "64", "--emulate", profile, "--stats")
    assert check_output(mpiexec(3, *command, "Hello"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ranks", "2"), "2 stages and a head are 3 ranks, not 2: use --ranks 3"),
        (("--layer-split", "1,1,1"), "the head of an emulated cluster holds no layers"),
        (("--synth-acceptance", "0.5", "--verify"), "leave --verify out"),
        (("--synth-acceptance", "2"), "give a rate from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(profile, options, words):
    done = generate("--emulate", profile, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_more_stages_than_layers_are_refused():
    done = generate("--emulate", "cpu70b-31-ib")
    assert done.returncode == 2
    assert "31 stages for a model of 30 layers" in done.stderr
