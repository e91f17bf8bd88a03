"""Split == whole, bit for bit, at every boundary, for a tiny model of each architecture."""

import numpy as np
import pytest

from architectures import N_CTX, N_VOCAB, TINY_MODELS
from support import plain_decode, run_ranks

pytestmark = pytest.mark.mpi

IDS = [int(token) for token in np.random.default_rng(2).integers(3, N_VOCAB, 20)]
N_EACH = 4  # tokens in a run when split
REDO_FROM = 8  # more than a window before the end


def splits(n_layer):
    """On 3 ranks: two stages at every boundary, and inner layers as stages of their own.

    Of tall models, whose layers are all alike, only some of the inner ones.
    """
    two = [[0, first, n_layer - first] for first in range(1, n_layer)]
    inner = range(1, n_layer - 1, 1 if n_layer <= 8 else 10)
    return two + [[first, 1, n_layer - first - 1] for first in inner]


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_split_equals_whole(tiny, tmp_path):
    path = str(tiny.write(tmp_path / "tiny.gguf"))
    request = {"model": path, "n_ctx": N_CTX, "n_cells": 4 * N_CTX}
    request |= {"tokens": IDS, "redo_from": REDO_FROM, "first_position": tiny.first_position}
    (whole,) = run_ranks(1, "logits.py", {**request, "layer_splits": [[1]]})
    assert len(set(whole)) == len(IDS), "different tokens have different logits"
    assert whole[len(IDS) :] == whole[REDO_FROM : len(IDS)], "what was taken back leaves no trace"

    cut = splits(tiny.n_layer)
    answers = run_ranks(3, "logits.py", {**request, "layer_splits": cut, "n_each": N_EACH})
    ends = [*range(N_EACH - 1, len(IDS), N_EACH), *range(REDO_FROM + N_EACH - 1, len(IDS), N_EACH)]
    for split, logits in zip(cut, answers, strict=True):
        assert logits == [whole[end] for end in ends], split

    job = {"model": path, "prompts": [IDS], "n_predict": 1, "n_ctx": N_CTX}
    plain = plain_decode({**job, "first_position": tiny.first_position})
    assert plain[0]["logits"] == whole[: len(IDS)]
