"""Windows and speculation: what is drafted, cancelled and moved in the cache changes no text.

A model of each kind of window: one that slides, and chunks, of which a new one begins in the text.
"""

from dataclasses import replace

import numpy as np
import pytest

from architectures import N_VOCAB, TINY_MODELS
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from support import plain_decode, run_ranks

pytestmark = pytest.mark.mpi

BY_NAME = {tiny.name: tiny for tiny in TINY_MODELS}
SLIDING = BY_NAME["gemma4"]
CHUNKED = replace(BY_NAME["llama4-maverick"], n_layer=4)
PROMPT = [int(token) for token in np.random.default_rng(3).integers(3, N_VOCAB, 5)]
N_PREDICT = 40
N_ROUNDS = 60


@pytest.mark.parametrize("tiny", [SLIDING, CHUNKED], ids=lambda tiny: tiny.name)
def test_random_trees(tiny, tmp_path):
    request = {
        "model": str(tiny.write(tmp_path / "tiny.gguf")),
        "layers": [[0, 2], [2, tiny.n_layer]],
        "n_layer": tiny.n_layer,
        "n_vocab": N_VOCAB,
        "n_ctx": 256,
        "seed": 3,
        "n_rounds": N_ROUNDS,
        "first_position": tiny.first_position,
    }
    seen = run_ranks(2, "trees.py", request)
    assert seen["positions"] == [0, 0]
    assert seen["logits"] > N_ROUNDS // 4, seen
    assert min(seen[name] for name in ("cancelled", "compactions", "shared")) > N_ROUNDS // 10, seen


@pytest.mark.parametrize("tiny", [SLIDING, CHUNKED], ids=lambda tiny: tiny.name)
def test_pipeinfer_with_a_drafter_that_is_right_now_and_then(tiny, tmp_path):
    path = str(tiny.write(tmp_path / "tiny.gguf"))
    n_ctx = len(PROMPT) + N_PREDICT - 1
    job = {"model": path, "prompts": [PROMPT], "n_predict": N_PREDICT, "n_ctx": n_ctx}
    job |= {"first_position": tiny.first_position}
    truths = [each["tokens"] for each in plain_decode(job)]
    cases = [
        {
            "strategy": "pipeinfer",
            "width": width,
            "drafter": "random",
            "truths": truths,
            "n_vocab": N_VOCAB,
        }
        for width in (1, 3)
    ]
    n_cells = n_ctx + spare_cells(DEFAULT_DRAFT, Policy.depth_of(2))
    more = {"layer_split": [1, 1], "n_cells": n_cells, "cases": cases}
    for seen in run_ranks(2, "tokens.py", {**job, **more}):
        assert seen["tokens"] == truths
        assert seen["kv_positions"] == 0
        assert seen["n_drafted"] >= seen["n_accepted"] > 0
