"""Models with recurrent layers: states are taken back, over ranks, as cells are."""

import numpy as np
import pytest

from architectures import N_VOCAB
from architectures.hybrids import HYBRIDS
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from support import IS_WHOLE, plain_decode, run_ranks

pytestmark = pytest.mark.mpi

SPECULATING = [each for each in HYBRIDS if each.name != "kimi-linear"]  # see formats.StateKind
MOST_USED = [each for each in HYBRIDS if each.name.startswith("qwen3")]
N_CTX = 256
N_PROMPT, N_PREDICT = 21, 60
SPLITS = [[1], [1, 1], [0, 1, 1], [1, 1, 1]]
STRATEGIES = ("speculative", "pipeinfer", "auto")
N_ROUNDS = 1500 if IS_WHOLE else 300  # of random cancels


def prompts(n):
    random = np.random.default_rng(3)
    return [[int(token) for token in random.integers(3, N_VOCAB, N_PROMPT)] for _ in range(n)]


def plain(path, texts):
    request = {"model": path, "prompts": texts, "n_predict": N_PREDICT, "n_ctx": N_CTX}
    return [each["tokens"] for each in plain_decode(request)]


def decode(path, layer_split, texts, cases, **more):
    n_stages = len(layer_split) - (layer_split[0] == 0)
    return run_ranks(
        len(layer_split),
        "tokens.py",
        {
            "model": path,
            "n_ctx": N_CTX,
            "n_cells": N_CTX + spare_cells(DEFAULT_DRAFT, Policy.depth_of(n_stages)),
            "layer_split": layer_split,
            "prompts": texts,
            "n_predict": N_PREDICT,
            "n_vocab": N_VOCAB,
            "has_states": True,
            "cases": cases,
            **more,
        },
    )


@pytest.mark.parametrize("layer_split", SPLITS, ids=str)
@pytest.mark.parametrize(
    "tiny", MOST_USED if IS_WHOLE else MOST_USED[:1], ids=lambda tiny: tiny.name
)
def test_speculation_does_not_change_the_text(tiny, layer_split, tmp_path):
    check(tiny, layer_split, tmp_path, ["random", "late", "wrong"], n_texts=2)


@pytest.mark.parametrize("tiny", SPECULATING, ids=lambda tiny: tiny.name)
def test_each_architecture_can_speculate(tiny, tmp_path):
    check(tiny, [1, 1], tmp_path, ["random"], n_texts=1)


def check(tiny, layer_split, folder, drafters, *, n_texts):
    """All strategies with drafters that know the text, and are right 7 times of 10, or never."""
    path = str(tiny.write(folder / "tiny.gguf"))
    texts = prompts(n_texts)
    truths = plain(path, texts)
    cases = [
        {"strategy": strategy, "drafter": drafter, "width": width, "truths": truths}
        for strategy in STRATEGIES
        for drafter in drafters
        for width in (None, 1)
    ]
    answers = decode(path, layer_split, texts, [{"strategy": "iterative"}, *cases])
    assert answers[0]["tokens"] == truths
    for case, seen in zip(cases, answers[1:], strict=True):
        assert seen["tokens"] == truths, case
        assert seen["kv_positions"] == (0 if layer_split[0] else -1)
        if case["drafter"] == "wrong":
            assert seen["n_accepted"] == 0
        if case["strategy"] == "speculative" and case["drafter"] == "random":
            assert seen["n_accepted"] > 0, case


@pytest.mark.parametrize("layer_split", SPLITS, ids=str)
def test_random_cancels_against_sequential_oracle(layer_split, tmp_path):
    """Thousands of them: texts stay right, and memory does not grow."""
    path = str(MOST_USED[0].write(tmp_path / "tiny.gguf"))
    (prompt,) = prompts(1)
    (text,) = plain(path, [prompt])
    seen = run_ranks(
        len(layer_split),
        "cancels.py",
        {
            "model": path,
            "n_ctx": N_CTX,
            "layer_split": layer_split,
            "truth": prompt + text,
            "n_known": len(prompt),
            "n_vocab": N_VOCAB,
            "seed": len(layer_split),
            "n_rounds": N_ROUNDS,
        },
    )
    assert seen["cells"] == [-1 if weight == 0 else 0 for weight in layer_split]
    assert seen["checked_rows"] > N_PREDICT
    # how many run to their end depends on the machine
    assert seen["completed"] > N_ROUNDS / 20, seen
    assert seen["cancelled"] > N_ROUNDS / 5, seen
    assert seen["aborted"] > 0, seen
    assert seen["grown"] < 4e6, seen
