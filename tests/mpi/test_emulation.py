"""On an emulated cluster the text is the same; only when things happen is another matter."""

import pytest

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from support import PROMPTS, plain_decode, run_ranks, smollm2, smollm2_request

pytestmark = pytest.mark.mpi

N_PREDICT = 24
N_CTX = 256
CLUSTERS = {
    "fast": {"stage_ms": 3, "token_ms": 0.2, "latency_us": 2, "gbit_per_s": 96},
    "slow links": {"stage_ms": 1, "token_ms": 0.1, "latency_us": 1500, "gbit_per_s": 0.2},
    "too fast for us": {"stage_ms": 0.001, "token_ms": 0, "latency_us": 1, "gbit_per_s": 1e6},
}


@pytest.fixture(scope="module")
def texts():
    prompts = [Vocab(smollm2()).tokenize(text) for text in PROMPTS[:2]]
    plain = plain_decode(smollm2_request(prompts, 48, N_CTX))
    return prompts, [each["tokens"] for each in plain]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_random_cancels_against_sequential_oracle(cluster, texts):
    (prompt, *_), (truth, *_) = texts
    seen = run_ranks(
        3,
        "cancels.py",
        {
            "model": str(smollm2()),
            "n_ctx": N_CTX,
            "layer_split": [0, 1, 1],
            "emulate": CLUSTERS[cluster],
            "truth": prompt + truth,
            "n_known": len(prompt),
            "seed": 5,
            "n_rounds": 60,
        },
    )
    assert seen["cells"] == [-1, 0, 0]
    assert seen["checked_rows"] > len(truth)
    assert seen["completed"] > 10
    assert seen["aborted"] > 5, seen


@pytest.mark.parametrize("cluster", ["fast", "slow links"])
def test_strategies_write_the_text_of_plain_decoding(cluster, texts):
    prompts, truths = texts
    truths = [truth[:N_PREDICT] for truth in truths]
    cases = [
        {"strategy": strategy, "drafter": drafter, "truths": truths}
        for strategy, drafter in [
            ("iterative", "none"),
            ("speculative", "random"),
            ("pipeinfer", "random"),
            ("pipeinfer", "late"),
            ("pipeinfer", "wrong"),
            ("auto", "ngram"),
        ]
    ]
    answers = run_ranks(
        4,
        "tokens.py",
        {
            "model": str(smollm2()),
            "n_ctx": N_CTX,
            "n_cells": N_CTX + spare_cells(DEFAULT_DRAFT, Policy.depth_of(3)),
            "layer_split": [0, 1, 1, 1],
            "emulate": CLUSTERS[cluster],
            "prompts": prompts,
            "n_predict": N_PREDICT,
            "cases": cases,
        },
    )
    for case, seen in zip(cases, answers, strict=True):
        assert seen["tokens"] == truths, case


def test_the_clocks_of_stages_and_links():
    seen = run_ranks(
        3, "emulated.py", {"model": str(smollm2()), "n_ctx": N_CTX, "layer_split": [0, 1, 1]}
    )
    assert seen["nudged"] is None, "a nudge does not wait for results that are under way"
    assert seen["n_results"] == len(seen["starts"]) == 6
    assert seen["in_bytes"] == 32768 * 4, "what a link carries are the emulated model's states"
    assert seen["overtaken"] == 0, "a stage begins a run when the one before is through"
    assert seen["too_early"] == 0, "a run is at the next stage after the link's time"
