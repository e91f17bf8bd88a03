"""Split == whole, bit for bit, at every boundary, for a tiny model of each architecture.

Starting ranks takes longer than what they compute here: a job decodes several models.
"""

import subprocess
from dataclasses import replace

import pytest

from architectures import N_CTX, TINY_MODELS
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from support import run_ranks
from tiny_texts import IDS as LONG
from tiny_texts import plain_logits

pytestmark = pytest.mark.mpi

IDS = LONG[:20]
N_EACH = 4  # tokens in a run when split
REDO_FROM = 8  # more than a window before the end
N_TOGETHER = 8  # models in a job
N_RANKS = 3


def splits(n_layer):
    """On 3 ranks: two stages at every boundary, and inner layers as stages of their own.

    Of tall models, whose layers are all alike, only some of the inner ones.
    """
    two = [[0, first, n_layer - first] for first in range(1, n_layer)]
    inner = range(1, n_layer - 1, 1 if n_layer <= 8 else 10)
    return two + [[first, 1, n_layer - first - 1] for first in inner]


class Jobs:
    """What ranks compute of the models that are tested: several in a job, each once."""

    def __init__(self, models, folder):
        self.folder = folder
        batches = [models[i : i + N_TOGETHER] for i in range(0, len(models), N_TOGETHER)]
        self.batch_of = {tiny.name: batch for batch in batches for tiny in batch}
        self.answers = {}

    def answer(self, tiny):
        """The path of the model, and what logits.py says of it."""
        if tiny.name not in self.answers:
            batch = self.batch_of[tiny.name]
            try:
                self.run(batch)
            except (AssertionError, subprocess.TimeoutExpired):  # which model is it?
                if len(batch) == 1:
                    raise
                self.batch_of.update({each.name: [each] for each in batch})
                self.run([tiny])
        return self.answers[tiny.name]

    def run(self, batch):
        paths = [tiny.write(self.folder / f"{tiny.name}.gguf") for tiny in batch]
        requests = [request(tiny, path) for tiny, path in zip(batch, paths, strict=True)]
        said = run_ranks(N_RANKS, "logits.py", {"requests": requests})
        for tiny, path, hashes in zip(batch, paths, said, strict=True):
            self.answers[tiny.name] = path, hashes


def request(tiny, path):
    return {
        "model": str(path),
        "n_layer": tiny.n_layer,
        "layer_splits": splits(tiny.n_layer),
        "n_ctx": N_CTX,
        "n_cells": 4 * N_CTX,
        "tokens": IDS,
        "n_each": N_EACH,
        "redo_from": REDO_FROM,
        "first_position": tiny.first_position,
    }


@pytest.fixture(scope="module")
def jobs(request, tmp_path_factory):
    selected = [
        item.callspec.params["tiny"]
        for item in request.session.items
        if getattr(item, "originalname", "") == test_split_equals_whole.__name__
    ]
    return Jobs(selected, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_split_equals_whole(tiny, jobs):
    path, (whole, *answers) = jobs.answer(tiny)
    assert len(set(whole)) == len(IDS), "different tokens have different logits"
    assert whole[len(IDS) :] == whole[REDO_FROM : len(IDS)], "what was taken back leaves no trace"

    ends = [end for start in (0, REDO_FROM) for end in range(start + N_EACH - 1, len(IDS), N_EACH)]
    for split, logits in zip(splits(tiny.n_layer), answers, strict=True):
        assert logits == [whole[end] for end in ends], split

    assert plain_logits(path, tiny.first_position)[: len(IDS)] == whole[: len(IDS)]


def test_shards_and_files_without_the_prediction_layer(tmp_path):
    """Shards have no prediction layers, whatever their keys say; nor have some whole files."""
    with_prediction = [tiny for tiny in TINY_MODELS if tiny.nextn is not None]
    paths, requests = [], []
    for tiny in with_prediction:
        path = tiny.write(tmp_path / f"{tiny.name}.gguf")
        without = without_prediction(tiny).write(tmp_path / f"{tiny.name}-without.gguf")
        split = [1, 2, tiny.n_layer - 3]
        shards = shard(
            ShardConfig(
                model=path, n_stages=N_RANKS, layer_split=tuple(split), folder=tmp_path / tiny.name
            )
        )
        common = {"layer_splits": [split]}
        requests.append(request(tiny, path) | common | {"models": list(map(str, shards))})
        requests.append(request(tiny, without) | common)
        paths += [path, path]
    answers = run_ranks(N_RANKS, "logits.py", {"requests": requests})
    for path, asked, (whole, split) in zip(paths, requests, answers, strict=True):
        plain = plain_logits(path)
        assert whole[: len(IDS)] == plain[: len(IDS)], asked["model"]
        assert split[: len(IDS) // N_EACH] == plain[N_EACH - 1 : len(IDS) : N_EACH], asked["model"]


def without_prediction(tiny):
    """The model as a converter may write it: its keys count a layer that is not in the file."""
    keys = {**tiny.keys, "block_count": tiny.n_layer + 1, "nextn_predict_layers": 1}
    return replace(tiny, nextn=None, keys=keys)
