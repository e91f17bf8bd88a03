"""Other rotations than the GGUF's: on all stages those of the unpatched library."""

import dataclasses

import pytest

from architectures import N_VOCAB, TINY_MODELS
from support import plain_decode, run_ranks

pytestmark = pytest.mark.mpi

IDS = [(7 * i) % (N_VOCAB - 3) + 3 for i in range(40)]
N_CTX, N_TRAINED = 256, 16  # the text is longer than what the model was trained for
N_EACH = 4
TINY = {tiny.name: tiny for tiny in TINY_MODELS}
# by name: the model, its own keys, RopeConfig's fields, and the same for the library
CASES = {
    "none": ("qwen3", {}, {"scaling": "none"}, {"rope_scaling_type": 0}),
    "linear": (
        "qwen3",
        {},
        {"scaling": "linear", "scale": 4.0},
        {"rope_scaling_type": 1, "rope_freq_scale": 0.25},
    ),
    "frequency": (
        "llama",
        {},
        {"freq_base": 5e5, "freq_scale": 0.3},
        {"rope_freq_base": 5e5, "rope_freq_scale": 0.3},
    ),
    "yarn": (
        "qwen3",
        {},
        {"scaling": "yarn", "scale": 3.0, "yarn_orig_ctx": 12},
        {"rope_scaling_type": 2, "rope_freq_scale": 1 / 3, "yarn_orig_ctx": 12},
    ),
    "all of yarn": (
        "qwen2moe",
        {},
        {
            "scaling": "yarn",
            "freq_scale": 0.5,
            "yarn_ext_factor": 0.7,
            "yarn_attn_factor": 1.25,
            "yarn_beta_slow": 0.5,
            "yarn_beta_fast": 20.0,
        },
        {
            "rope_scaling_type": 2,
            "rope_freq_scale": 0.5,
            "yarn_ext_factor": 0.7,
            "yarn_attn_factor": 1.25,
            "yarn_beta_slow": 0.5,
            "yarn_beta_fast": 20.0,
        },
    ),
    "own yarn": (
        "qwen3",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": N_TRAINED,
        },
        {},
        {},
    ),
    "own yarn, none": (
        "qwen3",
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
        {"scaling": "none"},
        {"rope_scaling_type": 0},
    ),
    "own linear": ("qwen2", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, {}, {}),
    "windows": (
        "gemma3",
        {},
        {"scaling": "yarn", "scale": 2.0},
        {"rope_scaling_type": 2, "rope_freq_scale": 0.5},
    ),
    "latent attention": (
        "deepseek2",
        {},
        {"scaling": "yarn", "scale": 2.0},
        {"rope_scaling_type": 2, "rope_freq_scale": 0.5},
    ),
    "long factors": (
        "phi3",
        {"rope.scaling.original_context_length": N_TRAINED},
        {"freq_base": 3e4},
        {"rope_freq_base": 3e4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_any_split_has_the_logits_of_the_unpatched_library(case, tmp_path):
    name, keys, rope, params = CASES[case]
    tiny = TINY[name]
    keys = {**tiny.keys, "context_length": N_TRAINED, **keys}
    path = dataclasses.replace(tiny, keys=keys).write(tmp_path / "tiny.gguf")
    job = {"model": str(path), "prompts": [IDS], "n_predict": 1, "n_ctx": N_CTX}
    plain = plain_decode({**job, "rope": params})[0]["logits"]
    if params.get("rope_scaling_type", 1) or keys.get("rope.scaling.type"):
        other = {"rope_freq_scale": 0.9} if not params else {}
        assert plain != plain_decode({**job, "rope": other})[0]["logits"]

    request = {"model": str(path), "n_ctx": N_CTX, "n_cells": 4 * N_CTX, "tokens": IDS}
    request |= {"rope": rope}
    (whole,) = run_ranks(1, "logits.py", {**request, "layer_splits": [[1]]})
    assert whole == plain
    first = tiny.n_layer // 2
    cut = [[0, first, tiny.n_layer - first], [first, 1, tiny.n_layer - first - 1]]
    answers = run_ranks(3, "logits.py", {**request, "layer_splits": cut, "n_each": N_EACH})
    for split, logits in zip(cut, answers, strict=True):
        assert logits == plain[N_EACH - 1 :: N_EACH], split
