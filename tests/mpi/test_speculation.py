"""Speculation does not change the text: strategies x drafters x stages against plain decoding."""

import os
from functools import cache

import pytest

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
SAMPLE = [
    ("speculative", "random", [1, 1]),
    ("speculative", "model", [1]),
    ("pipeinfer", "random", [1, 1]),
    ("pipeinfer", "random", [1, 1, 1, 1]),
    ("pipeinfer", "wrong", [0, 1, 1]),
    ("pipeinfer", "ngram", [1]),
    ("pipeinfer", "both", [0, 1, 1]),
    ("auto", "random", [0, 1, 1]),
    ("auto", "wrong", [1, 1]),
]
MATRIX = [(s, d, split) for s in STRATEGIES for d in DRAFTERS for split in SPLITS]


@cache
def prompts_and_truths():
    vocab = Vocab(smollm2())
    texts = PROMPTS if IS_WHOLE else PROMPTS[3:9]
    prompts = [vocab.tokenize(text) for text in texts]
    request = {"model": str(smollm2()), "prompts": prompts, "n_ctx": N_CTX}
    plain = plain_decode({**request, "n_predict": N_PREDICT})
    return prompts, [each["tokens"] for each in plain]


@pytest.mark.parametrize(("strategy", "drafter", "layer_split"), MATRIX if IS_WHOLE else SAMPLE)
def test_the_text_is_that_of_plain_decoding(strategy, drafter, layer_split):
    prompts, truths = prompts_and_truths()
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
        },
    )
    assert seen["tokens"] == truths
    if drafter == "wrong":
        assert seen["n_accepted"] == 0
    if drafter in ("random", "model"):
        assert seen["n_drafted"] >= seen["n_accepted"] > 0
    if (strategy, drafter) == ("pipeinfer", "wrong"):
        assert seen["n_cancelled"] > 0
