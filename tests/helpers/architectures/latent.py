"""Keys and values from a low-rank state."""

from __future__ import annotations

from architectures.layers import experts, feed_forward, norms
from architectures.tiny_model import (
    N_EMBD,
    N_EXPERT,
    N_EXPERT_USED,
    N_HEAD,
    Shape,
    TinyModel,
    Value,
)

N_ROT, N_NOPE, V_DIM, KV_RANK, Q_RANK = 32, 32, 32, 64, 96


def deepseek2_attention(*, is_lite: bool) -> dict[str, Shape]:
    """Keys and values from a low-rank state; lite models have no such state for queries."""
    k_dim = N_NOPE + N_ROT
    query: dict[str, Shape] = {
        "attn_q_a": (Q_RANK, N_EMBD),
        "attn_q_a_norm": (Q_RANK,),
        "attn_q_b": (N_HEAD * k_dim, Q_RANK),
    }
    return {
        **norms("attn_norm", "ffn_norm"),
        **({"attn_q": (N_HEAD * k_dim, N_EMBD)} if is_lite else query),
        "attn_kv_a_mqa": (KV_RANK + N_ROT, N_EMBD),
        "attn_kv_a_norm": (KV_RANK,),
        "attn_output": (N_EMBD, N_HEAD * V_DIM),
    }


def deepseek2_ffn(layer: int, n_dense: int) -> dict[str, Shape]:
    return feed_forward() if layer < n_dense else {**experts(64), **feed_forward("_shexp", 64)}


def deepseek2_layer(layer: int) -> dict[str, Shape]:
    absorbed = {"attn_k_b": (N_HEAD, KV_RANK, N_NOPE), "attn_v_b": (N_HEAD, V_DIM, KV_RANK)}
    attention_ = {**deepseek2_attention(is_lite=False), **absorbed}
    bias = {} if layer < 3 else {"exp_probs_b.bias": (N_EXPERT,)}
    return {**attention_, **deepseek2_ffn(layer, 3), **bias}


def deepseek2_lite_layer(layer: int) -> dict[str, Shape]:
    both = {"attn_kv_b": (N_HEAD * (N_NOPE + V_DIM), KV_RANK)}
    return {**deepseek2_attention(is_lite=True), **both, **deepseek2_ffn(layer, 1)}


DEEPSEEK2_KEYS: dict[str, Value] = {
    "attention.kv_lora_rank": KV_RANK,
    "rope.dimension_count": N_ROT,
    "expert_count": N_EXPERT,
    "expert_used_count": N_EXPERT_USED,
    "expert_shared_count": 1,
    "expert_feed_forward_length": 64,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_log_multiplier": 0.0707,
}


LATENT = (
    TinyModel(
        name="deepseek2",
        arch="deepseek2",
        known_as="DeepSeek V2, V3, R1",
        special="latent attention, three leading dense layers, then experts with a bias and "
        "a shared one",
        layer=deepseek2_layer,
        n_layer=6,
        keys={
            **DEEPSEEK2_KEYS,
            "leading_dense_block_count": 3,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": Q_RANK,
            "attention.key_length": KV_RANK + N_ROT,
            "attention.value_length": KV_RANK,
            "attention.key_length_mla": N_NOPE + N_ROT,
            "attention.value_length_mla": V_DIM,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
        },
    ),
    TinyModel(
        name="deepseek2-lite",
        arch="deepseek2",
        known_as="DeepSeek V2 Lite",
        special="27 layers: llama.cpp infers that queries are not low-rank; one dense layer",
        layer=deepseek2_lite_layer,
        n_layer=27,
        keys={
            **DEEPSEEK2_KEYS,
            "leading_dense_block_count": 1,
            "attention.head_count_kv": N_HEAD,
            "attention.key_length": N_NOPE + N_ROT,
            "attention.value_length": V_DIM,
        },
    ),
)
