"""Speculation does not change the text: strategies x drafters x stages against plain decoding."""

import os
from dataclasses import asdict
from functools import cache
from itertools import product

import pytest

from pipeinfer_cli.sampling import SampleParams
from pipeinfer_cli.vocab import Vocab
from support import PROMPTS, plain_decode, run_ranks, smollm2

pytestmark = pytest.mark.mpi

# The whole matrix takes long: `make test-matrix`.
IS_WHOLE = bool(os.environ.get("TEST_MATRIX"))
N_PREDICT = 96 if IS_WHOLE else 40
N_CTX = 256
STRATEGIES = ("speculative", "pipeinfer", "auto")
DRAFTERS = ("model", "both", "ngram", "wrong", "random")
SPLITS = ([1], [1, 1], [0, 1, 1], [1, 1, 1, 1])
SEEDS = (None, 1, 2, 3)  # None: greedy
SAMPLE = [
    ("speculative", "random", [1, 1], None),
    ("speculative", "model", [1], 1),
    ("pipeinfer", "random", [1, 1], 2),
    ("pipeinfer", "random", [1, 1, 1, 1], None),
    ("pipeinfer", "wrong", [0, 1, 1], None),
    ("pipeinfer", "ngram", [1], None),
    ("pipeinfer", "both", [0, 1, 1], 3),
    ("auto", "random", [0, 1, 1], None),
    ("auto", "wrong", [1, 1], 1),
]
MATRIX = list(product(STRATEGIES, DRAFTERS, SPLITS, SEEDS))


@cache
def prompts_and_truths(seed):
    vocab = Vocab(smollm2())
    texts = PROMPTS if IS_WHOLE else PROMPTS[3:9]
    prompts = [vocab.tokenize(text) for text in texts]
    request = {"model": str(smollm2()), "prompts": prompts, "n_ctx": N_CTX}
    plain = plain_decode({**request, "n_predict": N_PREDICT, **sampling(seed)})
    return prompts, [each["tokens"] for each in plain]


def sampling(seed):
    if seed is None:
        return {}
    return {"sample": asdict(SampleParams(temperature=0.8, seed=seed))}


@pytest.mark.parametrize(
    ("strategy", "drafter", "layer_split", "seed"), MATRIX if IS_WHOLE else SAMPLE
)
def test_the_text_is_that_of_plain_decoding(strategy, drafter, layer_split, seed):
    prompts, truths = prompts_and_truths(seed)
    seen = run_ranks(
        len(layer_split),
        "tokens.py",
        {
            "model": str(smollm2()),
            "draft_model": str(smollm2()),
            "n_ctx": N_CTX,
            "layer_split": layer_split,
            "prompts": prompts,
            "truths": truths,
            "n_predict": N_PREDICT,
            "strategy": strategy,
            "drafter": drafter,
            **sampling(seed),
        },
    )
    assert seen["tokens"] == truths
    if drafter == "wrong":
        assert seen["n_accepted"] == 0
    if drafter in ("random", "model"):
        assert seen["n_drafted"] >= seen["n_accepted"] > 0
    if (strategy, drafter) == ("pipeinfer", "wrong"):
        assert seen["n_cancelled"] > 0
