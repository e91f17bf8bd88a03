"""Quantized keys and values: split == whole == unpatched, also where heads differ by layer."""

import numpy as np
import pytest

from architectures import N_CTX, N_EMBD, N_HEAD, N_VOCAB, TINY_MODELS, TinyModel, norms
from architectures.layers import feed_forward
from pipeinfer_cli.engine.config import CacheTypes
from support import plain_decode, run_ranks

pytestmark = pytest.mark.mpi

IDS = [int(token) for token in np.random.default_rng(6).integers(3, N_VOCAB, 20)]
N_EACH = 4  # tokens in a run
HEADS = {True: 32, False: 64}  # of layers with a window, and without: llama.cpp rotates 64 only
WINDOWS = [True, True, False, True, False]


def layer(index):
    """Of a gemma4. Layers that see the whole text have keys that are their values."""
    head = HEADS[WINDOWS[index]]
    return {
        **norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        "attn_q": (N_HEAD * head, N_EMBD),
        "attn_k": (2 * head, N_EMBD),
        **({"attn_v": (2 * head, N_EMBD)} if WINDOWS[index] else {}),
        "attn_output": (N_EMBD, N_HEAD * head),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "layer_output_scale": (1,),
        **feed_forward(),
    }


TWO_SIZES = TinyModel(
    name="heads of two sizes",
    arch="gemma4",
    known_as="",
    special="",
    layer=layer,
    ends={"rope_freqs": (HEADS[False] // 2,)},
    n_layer=len(WINDOWS),
    keys={
        "attention.sliding_window": 8,
        "attention.sliding_window_pattern": WINDOWS,
        "attention.key_length": HEADS[False],
        "attention.value_length": HEADS[False],
        "attention.key_length_swa": HEADS[True],
        "attention.value_length_swa": HEADS[True],
        "rope.dimension_count": HEADS[False],
        "rope.dimension_count_swa": HEADS[True],
        "embedding_length_per_layer_input": 0,
        "final_logit_softcapping": 3.0,
    },
    is_tied=True,
)
OTHERS = [tiny for tiny in TINY_MODELS if tiny.name in ("deepseek2", "gemma3", "gpt-oss")]


@pytest.mark.parametrize("types", [("q8_0", "q8_0"), ("q4_0", "q4_0")], ids="-".join)
@pytest.mark.parametrize("tiny", [TWO_SIZES, *OTHERS], ids=lambda tiny: tiny.name)
def test_split_equals_whole(tiny, types, tmp_path):
    path = str(tiny.write(tmp_path / "tiny.gguf"))
    job = {"model": path, "prompts": [IDS], "n_predict": 1, "n_ctx": N_CTX}
    plain = plain_decode({**job, "cache_types": CacheTypes(*types).ids})[0]["logits"]
    assert len(set(plain)) == len(IDS)
    assert plain != plain_decode(job)[0]["logits"]

    splits = [[0, first, tiny.n_layer - first] for first in range(1, tiny.n_layer)]
    splits += [[first, 1, tiny.n_layer - first - 1] for first in range(1, tiny.n_layer - 1)]
    request = {"model": path, "n_ctx": N_CTX, "tokens": IDS, "cache_types": types}
    answers = run_ranks(3, "logits.py", {**request, "layer_splits": splits, "n_each": N_EACH})
    for split, logits in zip(splits, answers, strict=True):
        assert logits == plain[N_EACH - 1 :: N_EACH], split
