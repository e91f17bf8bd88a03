"""Layers that look back at a window of the text only."""

from __future__ import annotations

from architectures.dense import command_r_layer, olmo2_layer
from architectures.layers import (
    HEADS,
    MIXTURE,
    attention,
    experts,
    feed_forward,
    head_norms,
    norms,
    plain_layer,
)
from architectures.prediction import predictor
from architectures.tiny_model import (
    HEAD_DIM,
    N_EMBD,
    N_EXPERT,
    N_HEAD,
    WINDOW,
    Shape,
    TinyModel,
    Value,
)

N_FF_EXP, N_FF_SHARED = 64, 96
CHUNK = 8192  # of Llama 4; llama.cpp does not read it from the file
SIGMOID = 2  # enum llama_expert_gating_func_type
SHARED_EXPERT: dict[str, Value] = {
    **MIXTURE,
    "expert_shared_count": 1,
    "expert_feed_forward_length": N_FF_EXP,
    "expert_gating_func": SIGMOID,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
}


def gemma2_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **norms("post_attention_norm", "post_ffw_norm")}


def gemma3_layer(_: int) -> dict[str, Shape]:
    return {**gemma2_layer(0), **head_norms()}


def shared_experts(n_ff_shared: int = N_FF_EXP) -> dict[str, Shape]:
    """Experts with a bias that only chooses, and one that is always used."""
    return {
        **experts(N_FF_EXP),
        **feed_forward("_shexp", n_ff_shared),
        "exp_probs_b.bias": (N_EXPERT,),
    }


def llama4_layer(step: int, n_expert: int, layer: int) -> dict[str, Shape]:
    moe = {**experts(N_FF_EXP, n_expert), **feed_forward("_shexp", N_FF_EXP)}
    ffn = moe if (layer + 1) % step == 0 else feed_forward()
    return {**norms("attn_norm", "ffn_norm"), **attention(), **ffn}


def exaone4_layer(_: int) -> dict[str, Shape]:
    after = norms("post_attention_norm", "post_ffw_norm")
    return {**attention(), **head_norms(), **after, **feed_forward()}


def exaone_moe_layer(layer: int) -> dict[str, Shape]:
    ffn = feed_forward() if layer < 2 else shared_experts(N_FF_SHARED)
    return {**norms("attn_norm", "ffn_norm"), **attention(), **head_norms(), **ffn}


def cohere2moe_layer(layer: int) -> dict[str, Shape]:
    fused = {"ffn_gate_up_exps": (N_EXPERT, 2 * N_FF_EXP, N_EMBD)}
    split = experts(N_FF_EXP)
    moe = {name: split[name] for name in ("ffn_gate_inp", "ffn_down_exps")}
    shared = feed_forward("_shexp", N_FF_SHARED)
    ffn = feed_forward() if layer < 2 else {**moe, **fused, **shared}
    return {**norms("attn_norm"), **attention(), **ffn}


STEP35_WINDOWS = [False, True, True, True, False, True]
STEP35_HEADS = [6 if has_window else N_HEAD for has_window in STEP35_WINDOWS]


def step35_layer(layer: int) -> dict[str, Shape]:
    n_head = STEP35_HEADS[layer]
    return {
        **norms("attn_norm", "ffn_norm"),
        **attention(n_head=n_head),
        **head_norms(),
        "attn_gate": (n_head, N_EMBD),
        **(feed_forward() if layer < 2 else shared_experts(N_FF_SHARED)),
    }


MIMO2_WINDOWS = [False, True, True, False, True, True]
MIMO2_KV_HEADS = [2 if has_window else 1 for has_window in MIMO2_WINDOWS]


def mimo2_layer(layer: int) -> dict[str, Shape]:
    """Keys are longer than values; every other layer has them fused with the queries."""
    n_q, n_k, n_v = N_HEAD * 64, MIMO2_KV_HEADS[layer] * 64, MIMO2_KV_HEADS[layer] * HEAD_DIM
    fused = {"attn_qkv": (n_q + n_k + n_v, N_EMBD)}
    split = {"attn_q": (n_q, N_EMBD), "attn_k": (n_k, N_EMBD), "attn_v": (n_v, N_EMBD)}
    moe = {**experts(N_FF_EXP), "exp_probs_b.bias": (N_EXPERT,)}
    return {
        **norms("attn_norm", "ffn_norm"),
        **(fused if layer % 2 else split),
        "attn_output": (N_EMBD, N_HEAD * HEAD_DIM),
        **({"attn_sinks": (N_HEAD,)} if MIMO2_WINDOWS[layer] else {}),
        **(feed_forward() if layer == 0 else moe),
    }


def afmoe_layer(layer: int) -> dict[str, Shape]:
    return {
        **norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        **attention(),
        **head_norms(),
        "attn_gate": (N_HEAD * HEAD_DIM, N_EMBD),
        **(feed_forward() if layer < 2 else shared_experts()),
    }


GEMMA4_WINDOWS = [True, True, False, True, True, False]
GEMMA4_KV_HEADS = [2 if has_window else 1 for has_window in GEMMA4_WINDOWS]
GEMMA4_HEADS: dict[str, Value] = {
    "attention.sliding_window": WINDOW,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.key_length_swa": HEAD_DIM,
    "attention.value_length_swa": HEAD_DIM,
    "rope.dimension_count": 64,
    "rope.dimension_count_swa": HEAD_DIM,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
    "final_logit_softcapping": 3.0,
}
GEMMA4_KEYS: dict[str, Value] = {
    **GEMMA4_HEADS,
    "attention.sliding_window_pattern": GEMMA4_WINDOWS,
    "attention.head_count_kv": GEMMA4_KV_HEADS,
    "embedding_length_per_layer_input": 0,
}


def gemma4_layer(layer: int) -> dict[str, Shape]:
    """Layers that see the whole text have longer heads, and their keys are their values."""
    has_window = GEMMA4_WINDOWS[layer]
    head_dim = HEAD_DIM if has_window else 64
    n_kv = GEMMA4_KV_HEADS[layer] * head_dim
    return {
        **norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        "attn_q": (N_HEAD * head_dim, N_EMBD),
        "attn_k": (n_kv, N_EMBD),
        **({"attn_v": (n_kv, N_EMBD)} if has_window else {}),
        "attn_output": (N_EMBD, N_HEAD * head_dim),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
        "layer_output_scale": (1,),
        **feed_forward(),
    }


def gemma4_moe_layer(layer: int) -> dict[str, Shape]:
    return {
        **gemma4_layer(layer),
        **norms("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2", "ffn_gate_inp.scale"),
        "ffn_gate_inp": (N_EXPERT, N_EMBD),
        "ffn_gate_up_exps": (N_EXPERT, 2 * N_FF_EXP, N_EMBD),
        "ffn_down_exps": (N_EXPERT, N_EMBD, N_FF_EXP),
        "ffn_down_exps.scale": (N_EXPERT,),
    }


GEMMA = (
    TinyModel(
        name="gemma2",
        arch="gemma2",
        known_as="Gemma 2",
        special="scaled embeddings, every other layer with a sliding window, capped logits",
        layer=gemma2_layer,
        keys={
            **HEADS,
            "attention.sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
        is_tied=True,
    ),
    TinyModel(
        name="gemma3",
        arch="gemma3",
        known_as="Gemma 3 (text)",
        special="scaled embeddings, five of six layers with a sliding window and a rotation of "
        "their own",
        layer=gemma3_layer,
        n_layer=8,
        keys={**HEADS, "attention.sliding_window": WINDOW, "rope.freq_base": 1e6},
        is_tied=True,
    ),
    TinyModel(
        name="gemma4",
        arch="gemma4",
        known_as="Gemma 4 31B (text)",
        special="layers with a sliding window have other heads and another rotation than those "
        "without, whose keys are their values; scaled outputs",
        layer=gemma4_layer,
        ends={"rope_freqs": (32,)},
        n_layer=6,
        keys=GEMMA4_KEYS,
        is_tied=True,
    ),
    TinyModel(
        name="gemma4-moe",
        arch="gemma4",
        known_as="Gemma 4 26B-A4B (text)",
        special="experts beside a dense feed-forward, with scales of their own",
        layer=gemma4_moe_layer,
        ends={"rope_freqs": (32,)},
        n_layer=6,
        keys={**GEMMA4_KEYS, **MIXTURE, "expert_feed_forward_length": N_FF_EXP},
        is_tied=True,
    ),
)

LLAMA4_KEYS: dict[str, Value] = {
    **HEADS,
    "context_length": 2 * CHUNK,
    "expert_used_count": 1,
    "expert_feed_forward_length": N_FF_EXP,
    "rope.freq_base": 5e5,
}

LLAMA4 = (
    TinyModel(
        name="llama4-scout",
        arch="llama4",
        known_as="Llama 4 Scout",
        special="three of four layers look back to the beginning of a chunk of 8,192 positions "
        "only, the fourth has no rotation and scales queries by position; norms of rotated queries "
        "and keys; the texts begin shortly before a chunk ends",
        layer=lambda layer: llama4_layer(1, 16, layer),
        n_layer=6,
        ends={"rope_freqs": (HEAD_DIM // 2,)},
        keys={**LLAMA4_KEYS, "expert_count": 16, "interleave_moe_layer_step": 1},
        first_position=CHUNK - 10,
    ),
    TinyModel(
        name="llama4-maverick",
        arch="llama4",
        known_as="Llama 4 Maverick",
        special="experts in every other layer only; 128 experts: no norms of queries and keys",
        layer=lambda layer: llama4_layer(2, 128, layer),
        n_layer=6,
        keys={**LLAMA4_KEYS, "expert_count": 128, "interleave_moe_layer_step": 2},
        first_position=CHUNK - 10,
    ),
)

COHERE2_KEYS: dict[str, Value] = {"attention.sliding_window": WINDOW, "logit_scale": 0.0625}

OTHERS = (
    TinyModel(
        name="olmo3",
        arch="olmo2",
        known_as="OLMo 3",
        special="three of four layers with a sliding window and no frequency scaling",
        layer=olmo2_layer,
        n_layer=6,
        keys={
            "attention.sliding_window": WINDOW,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    TinyModel(
        name="exaone4",
        arch="exaone4",
        known_as="EXAONE 4.0 1.2B",
        special="norms after attention and feed-forward, norms of queries and keys; a prediction "
        "layer, left out",
        layer=exaone4_layer,
        nextn=lambda layer: {**exaone4_layer(layer), **predictor()},
        ends={"rope_freqs": (HEAD_DIM // 2,)},
        is_tied=True,
    ),
    TinyModel(
        name="exaone4-32b",
        arch="exaone4",
        known_as="EXAONE 4.0 32B",
        special="64 layers: three of four have a sliding window, the fourth has no rotation",
        layer=exaone4_layer,
        ends={"rope_freqs": (HEAD_DIM // 2,)},
        n_layer=64,
        keys={"attention.sliding_window": WINDOW},
    ),
    TinyModel(
        name="exaone-moe",
        arch="exaone-moe",
        known_as="K-EXAONE",
        special="sliding windows, no rotation without one; leading dense layers, then experts "
        "with a bias and a shared one",
        layer=exaone_moe_layer,
        n_layer=6,
        keys={
            **SHARED_EXPERT,
            "attention.sliding_window": WINDOW,
            "expert_shared_feed_forward_length": N_FF_SHARED,
            "leading_dense_block_count": 2,
        },
    ),
    TinyModel(
        name="cohere2",
        arch="cohere2",
        known_as="Command R7B, Command A",
        special="attention and feed-forward side by side; three of four layers have a sliding "
        "window, the fourth has no rotation",
        layer=command_r_layer,
        n_layer=6,
        keys=COHERE2_KEYS,
        is_tied=True,
    ),
    TinyModel(
        name="cohere2moe",
        arch="cohere2moe",
        known_as="Cohere 2 MoE",
        special="leading dense layers, rotated with or without a window, then fused experts and "
        "a shared one; a prediction layer, left out",
        layer=cohere2moe_layer,
        nextn=lambda layer: {**cohere2moe_layer(layer), **predictor()},
        n_layer=6,
        keys={
            **COHERE2_KEYS,
            **SHARED_EXPERT,
            "attention.layer_norm_rms_epsilon": 0.0,
            "expert_shared_feed_forward_length": N_FF_SHARED,
            "leading_dense_block_count": 2,
        },
        is_tied=True,
    ),
    TinyModel(
        name="step35",
        arch="step35",
        known_as="Step 3.5 Flash",
        special="layers with a sliding window have more heads and rotate all of them, others half; "
        "gates per head, clamped experts; a prediction layer, left out",
        layer=step35_layer,
        nextn=lambda _: {**step35_layer(5), **predictor()},
        ends={"rope_freqs": (HEAD_DIM // 2,)},
        n_layer=len(STEP35_WINDOWS),
        keys={
            **HEADS,
            **SHARED_EXPERT,
            "attention.head_count": [*STEP35_HEADS, STEP35_HEADS[5]],
            "attention.head_count_kv": [2] * (len(STEP35_WINDOWS) + 1),
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": [*STEP35_WINDOWS, True],
            "expert_shared_feed_forward_length": N_FF_SHARED,
            "rope.freq_base": 5e6,
            "rope.freq_base_swa": 1e4,
            "swiglu_clamp_exp": [0.0, 0.0, 0.0, 0.5, 0.0, 0.4, 0.0],
            "swiglu_clamp_shexp": [0.0, 0.0, 0.3, 0.0, 0.2, 0.0, 0.0],
        },
    ),
    TinyModel(
        name="mimo2",
        arch="mimo2",
        known_as="MiMo V2 Flash",
        special="layers with a sliding window have sinks and more heads of keys, which are longer "
        "than values; part of them is rotated; scaled values; a prediction layer, left out",
        layer=mimo2_layer,
        nextn=lambda _: {**mimo2_layer(1), **predictor()},
        n_layer=len(MIMO2_WINDOWS),
        keys={
            **MIXTURE,
            "expert_feed_forward_length": N_FF_EXP,
            "attention.head_count_kv": [*MIMO2_KV_HEADS, MIMO2_KV_HEADS[1]],
            "attention.key_length": 64,
            "attention.value_length": HEAD_DIM,
            "attention.value_scale": 0.7,
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": [*MIMO2_WINDOWS, True],
            "rope.dimension_count": 32,
            "rope.freq_base": 5e6,
            "rope.freq_base_swa": 1e4,
        },
    ),
    TinyModel(
        name="afmoe",
        arch="afmoe",
        known_as="Trinity (AFMoE)",
        special="scaled embeddings, gated attention, norms before and after; three of four layers "
        "have a sliding window, the fourth has no rotation",
        layer=afmoe_layer,
        n_layer=6,
        keys={
            **HEADS,
            **SHARED_EXPERT,
            "attention.sliding_window": WINDOW,
            "leading_dense_block_count": 2,
        },
    ),
)

WINDOWS = (*GEMMA, *LLAMA4, *OTHERS)
