"""LoRA adapters: each stage takes its own layers' part, and the text is the unpatched library's."""

import gguf
import numpy as np
import pytest

from architectures import N_CTX, N_VOCAB, TINY_MODELS
from lora_files import MATRICES, write_adapter
from support import plain_decode, run_ranks

pytestmark = pytest.mark.mpi

Type = gguf.GGMLQuantizationType
IDS = [int(token) for token in np.random.default_rng(3).integers(3, N_VOCAB, 20)]
N_EACH = 4  # tokens of a run when split
TINY = {tiny.name: tiny for tiny in TINY_MODELS}
EMBEDDING = rf"{MATRICES}|token_embd\.weight"
# by model, the adapters that it is decoded with: the names and types of their tensors, and scales
CASES = {
    "llama F32": ("llama", [(MATRICES, Type.F32, 1.0)]),
    "llama F16": ("llama", [(MATRICES, Type.F16, 0.7)]),
    "qwen3 embedding": ("qwen3", [(EMBEDDING, Type.F32, 1.0)]),
    "llama Q8_0": ("llama", [(MATRICES, Type.Q8_0, 1.0)]),
    "two": ("qwen3", [(MATRICES, Type.F16, 0.5), (r"blk\.\d\.attn_[qv]\.weight", Type.F32, -2.0)]),
    "none": ("qwen3", [(MATRICES, Type.F32, 0.0)]),
    "one layer": ("qwen3", [(r"blk\.3\..*_down\.weight", Type.F32, 1.0)]),
    "experts": ("qwen3moe", [(MATRICES, Type.F32, 1.0)]),
    "experts F16": ("llama-moe", [(MATRICES, Type.F16, 1.0)]),
    "shared experts": ("qwen2moe", [(MATRICES, Type.F16, 1.0)]),
    "gpt-oss": ("gpt-oss", [(MATRICES, Type.F32, 1.0)]),
}


def adapters_of(base, specs, folder):
    """[[path, scale]]"""
    return [
        [str(write_adapter(folder / f"{i}.gguf", base, names=names, kind=kind, seed=i)), scale]
        for i, (names, kind, scale) in enumerate(specs)
    ]


@pytest.mark.parametrize("case", CASES)
def test_any_split_has_the_logits_of_the_unpatched_library(case, tmp_path):
    name, specs = CASES[case]
    tiny = TINY[name]
    path = tiny.write(tmp_path / "tiny.gguf")
    adapters = adapters_of(path, specs, tmp_path)
    job = {"model": str(path), "prompts": [IDS], "n_predict": 1, "n_ctx": N_CTX}
    plain = plain_decode({**job, "adapters": adapters})[0]["logits"]
    without = plain_decode(job)[0]["logits"]
    assert (plain != without) == any(scale for _, scale in adapters)

    request = {"model": str(path), "n_ctx": N_CTX, "n_cells": 4 * N_CTX, "tokens": IDS}
    request |= {"adapters": adapters}
    (whole,) = run_ranks(1, "logits.py", {**request, "layer_splits": [[1]]})
    assert whole == plain
    (in_runs,) = run_ranks(1, "logits.py", {**request, "layer_splits": [[1]], "n_each": N_EACH})
    assert in_runs == plain[N_EACH - 1 :: N_EACH]
    cut = [[0, first, tiny.n_layer - first] for first in range(1, tiny.n_layer)]
    cut += [[first, 1, tiny.n_layer - first - 1] for first in range(1, tiny.n_layer - 1)]
    answers = run_ranks(3, "logits.py", {**request, "layer_splits": cut, "n_each": N_EACH})
    for split, logits in zip(cut, answers, strict=True):
        assert logits == plain[N_EACH - 1 :: N_EACH], split


def test_three_adapters_are_added_up_in_one_order(tmp_path):
    """The unpatched library goes by their addresses: it may give another sum each time."""
    tiny = TINY["qwen3"]
    path = tiny.write(tmp_path / "tiny.gguf")
    adapters = adapters_of(
        path, [(MATRICES, Type.F32, scale) for scale in (0.3, 0.7, 1.1)], tmp_path
    )
    request = {"model": str(path), "n_ctx": N_CTX, "tokens": IDS, "n_each": N_EACH}
    cut = [[0, first, tiny.n_layer - first] for first in range(1, tiny.n_layer)]
    answers = [
        logits
        for _ in range(2)
        for logits in run_ranks(
            3, "logits.py", {**request, "adapters": adapters, "layer_splits": cut}
        )
    ]
    assert len(set(map(tuple, answers))) == 1
    other = {**request, "adapters": adapters[::-1], "layer_splits": [[1]]}
    assert run_ranks(1, "logits.py", other)[0] != answers[0], "the order is that of the options"
