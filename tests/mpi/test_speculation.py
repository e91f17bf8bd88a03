"""Speculation does not change the text: strategies x drafters x stages against plain decoding."""

from dataclasses import asdict
from functools import cache
from itertools import product

import pytest

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from pipeinfer_cli.scheduler.runs import SampleParams
from small_models import convert, without_layers
from support import IS_WHOLE, PROMPTS, plain_decode, run_ranks, smollm2

pytestmark = pytest.mark.mpi

# The whole matrix takes half an hour, with 12 of SmolLM2's 30 layers: `make test-matrix`. Otherwise
# each job takes a sample of it, with all layers.
TEXTS = PROMPTS if IS_WHOLE else PROMPTS[3:5]
N_PREDICT = 16 if IS_WHOLE else 24
N_CTX = 256
STRATEGIES = ("speculative", "pipeinfer", "auto")
DRAFTERS = ("same", "Q4_0", "fewer layers", "both", "ngram", "wrong", "random", "late")
# Drafter, strategy, and the width of what is drafted; None: as it comes, by expected gain.
TRIPLES = [
    *product(DRAFTERS, STRATEGIES, [None]),
    *product(("Q4_0", "both", "random"), ("speculative", "pipeinfer"), [1, 3]),
]
SEEDS = (None, 1, 2, 3)  # None: greedy; else temperature 0.8
JOBS = [([1], None), ([1, 1], 1), ([0, 1, 1], None), ([1, 1, 1, 1], 2)]
if IS_WHOLE:
    JOBS = list(product([[1], [1, 1], [0, 1, 1], [1, 1, 1, 1]], SEEDS))


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    if not IS_WHOLE:
        return smollm2()
    path = tmp_path_factory.mktemp("target") / "target.gguf"
    return without_layers(smollm2(), path, set(range(6, 24)))


@pytest.fixture(scope="module")
def draft_models(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafts")
    left_out = {3, 8} if IS_WHOLE else {9, 14, 19, 24}
    fewer = without_layers(target, folder / "fewer.gguf", left_out)
    q4_0 = convert(target, folder, "Q4_0")
    return {"same": target, "both": target, "Q4_0": q4_0, "fewer layers": fewer}


def sampling(seed):
    if seed is None:
        return {}
    return {"sample": asdict(SampleParams(temperature=0.8, seed=seed))}


@cache
def prompts_and_truths(target, seed):
    vocab = Vocab(target)
    prompts = [vocab.tokenize(text) for text in TEXTS]
    request = {"model": str(target), "prompts": prompts, "n_ctx": N_CTX}
    plain = plain_decode({**request, "n_predict": N_PREDICT, **sampling(seed)})
    return prompts, [each["tokens"] for each in plain]


def cases_of(layer_split):
    """All strategies, drafters and widths, or a fourth, another one for each split."""
    return TRIPLES if IS_WHOLE else TRIPLES[len(layer_split) % 4 :: 4]


@pytest.mark.parametrize(("layer_split", "seed"), JOBS, ids=str)
def test_the_text_is_that_of_plain_decoding(layer_split, seed, target, draft_models):
    prompts, truths = prompts_and_truths(target, seed)
    cases = [
        {
            "strategy": strategy,
            "width": width,
            "in_turn": strategy == "auto",
            "drafter": "model" if drafter in ("same", "Q4_0", "fewer layers") else drafter,
            "draft_model": str(draft_models.get(drafter, "")),
            "truths": truths,
        }
        for drafter, strategy, width in cases_of(layer_split)
    ]
    n_ctx = max(map(len, prompts)) + N_PREDICT - 1  # the last token is not computed
    depth = Policy.depth_of(len(layer_split) - (layer_split[0] == 0))
    answers = run_ranks(
        len(layer_split),
        "tokens.py",
        {
            "model": str(target),
            "n_ctx": n_ctx,
            "n_cells": n_ctx + spare_cells(DEFAULT_DRAFT, depth),
            "layer_split": layer_split,
            "prompts": prompts,
            "n_predict": N_PREDICT,
            "cases": cases,
            **sampling(seed),
        },
        timeout_s=2900,
    )
    for (drafter, strategy, width), seen in zip(cases_of(layer_split), answers, strict=True):
        assert seen["tokens"] == truths, (strategy, drafter, width)
        assert seen["kv_positions"] == (0 if layer_split[0] else -1)
        assert seen["n_drafted"] >= seen["n_accepted"], (strategy, drafter, width)
        if drafter == "wrong":
            assert seen["n_accepted"] == 0
        # only here it does not depend on who is faster, the drafter or the target
        if strategy == "speculative" and drafter in ("same", "random"):
            assert seen["n_accepted"] > 0, (strategy, drafter, width)
