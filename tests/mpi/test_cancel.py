"""Cancelled runs leave no trace: what follows is as if they had never been."""

import pytest

from pipeinfer_cli.engine.vocab import Vocab
from support import PROMPTS, plain_decode, run_ranks, smollm2, smollm2_request

pytestmark = pytest.mark.mpi

N_PREDICT = 48
# Little more than the text and one round of runs in flight: leaked cells would fill the cache.
N_CTX = 256


@pytest.mark.parametrize("layer_split", [[1], [1, 1], [0, 1, 1], [2, 1, 1, 1]], ids=str)
def test_random_cancels_against_sequential_oracle(layer_split):
    prompt = Vocab(smollm2()).tokenize(PROMPTS[0])
    plain = plain_decode(smollm2_request([prompt], N_PREDICT, N_CTX))
    seen = run_ranks(
        len(layer_split),
        "cancels.py",
        {
            "model": str(smollm2()),
            "n_ctx": N_CTX,
            "layer_split": layer_split,
            "truth": prompt + plain[0]["tokens"],
            "n_known": len(prompt),
            "seed": len(layer_split),
            "n_rounds": 120,
        },
    )
    assert seen["cells"] == [-1 if weight == 0 else 0 for weight in layer_split]
    assert seen["checked_rows"] > N_PREDICT
    assert seen["completed"] > 20
    assert seen["aborted"] > 5, seen


@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_job_may_end_while_runs_are_computed(is_under_way):
    request = {"model": str(smollm2()), "n_ctx": N_CTX, "n_runs": 6, "is_under_way": is_under_way}
    assert run_ranks(3, "closing.py", request) == 6
