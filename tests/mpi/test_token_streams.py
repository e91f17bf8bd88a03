"""Several requests in one pipeline: each text is that of the unpatched llama.cpp, alone."""

from dataclasses import asdict
from functools import cache
from itertools import product

import pytest

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from pipeinfer_cli.scheduler.runs import SampleParams
from support import PROMPTS, plain_decode, run_ranks, smollm2

pytestmark = pytest.mark.mpi

N_CTX = 128
N_PREDICT = 20
COMMON = "You answer in few words, and never in verse. Here is what you are asked: "
SAMPLES = [None, {"temperature": 0.8, "seed": 1}, {"temperature": 1.2, "top_k": 0, "seed": 7}]


@cache
def items():
    """Prompts that begin alike or not, of different lengths, each drawn in a way of its own."""
    vocab = Vocab(smollm2())
    texts = [COMMON + text[:60] for text in PROMPTS[:5]] + [text[:80] for text in PROMPTS[5:9]]
    return [
        {
            "prompt": vocab.tokenize(text),
            "n_predict": N_PREDICT - index % 3,
            **({"sample": asdict(SampleParams(**sample))} if sample else {}),
        }
        for index, text in enumerate(texts)
        for sample in [SAMPLES[index % 3]]
    ]


@cache
def truths():
    def decode(item):
        request = {"model": str(smollm2()), "prompts": [item["prompt"]], "n_ctx": N_CTX}
        more = {name: item[name] for name in ("n_predict", "sample") if name in item}
        return plain_decode({**request, **more})[0]["tokens"]

    return [decode(item) for item in items()]


@pytest.mark.parametrize(("layer_split", "n_parallel"), [([1], 3), ([1, 1], 8), ([0, 1, 1, 1], 4)])
def test_each_text_is_the_one_that_it_has_alone(layer_split, n_parallel):
    cases = [
        {"strategy": strategy, "is_fixed": is_fixed, "items": items()}
        for strategy, is_fixed in (
            ("iterative", False),
            *product(("speculative", "pipeinfer"), (False, True)),
            ("auto", False),
        )
    ]
    depth = Policy.depth_of(len(layer_split) - (layer_split[0] == 0))
    answers = run_ranks(
        len(layer_split),
        "token_streams.py",
        {
            "model": str(smollm2()),
            "n_ctx": N_CTX,
            "n_cells": N_CTX * n_parallel + spare_cells(DEFAULT_DRAFT, depth, n_texts=n_parallel),
            "layer_split": layer_split,
            "n_parallel": n_parallel,
            "cases": cases,
        },
    )
    for case, seen in zip(cases, answers, strict=True):
        assert seen["tokens"] == truths(), (case["strategy"], case["is_fixed"])
        assert seen["kv_positions"] == (0 if layer_split[0] else -1), case["strategy"]
    plain, n_decided = answers[0], sum(item["n_predict"] for item in items())
    n_prompt = sum(len(item["prompt"]) for item in items())
    n_common = len(Vocab(smollm2()).tokenize(COMMON)) - 1  # the last may join with what follows
    assert plain["n_tokens"] <= n_prompt - 4 * n_common + n_decided, "a prefix was fed again"
    if n_parallel > len(layer_split):
        assert plain["n_runs"] < n_decided, "no run was shared"
