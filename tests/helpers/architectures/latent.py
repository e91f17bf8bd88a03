"""Keys and values from a low-rank state."""

from __future__ import annotations

from architectures.layers import experts, feed_forward, norms, router_bias
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


def absorbed_attention() -> dict[str, Shape]:
    absorbed = {"attn_k_b": (N_HEAD, KV_RANK, N_NOPE), "attn_v_b": (N_HEAD, V_DIM, KV_RANK)}
    return {**deepseek2_attention(is_lite=False), **absorbed}


def deepseek2_layer_after(n_dense: int, layer: int) -> dict[str, Shape]:
    bias = {} if layer < n_dense else router_bias()
    return {**absorbed_attention(), **deepseek2_ffn(layer, n_dense), **bias}


def deepseek2_layer(layer: int) -> dict[str, Shape]:
    return deepseek2_layer_after(3, layer)


def kimi_layer(layer: int) -> dict[str, Shape]:
    return deepseek2_layer_after(1, layer)


def mistral_large_layer(layer: int) -> dict[str, Shape]:
    return {**absorbed_attention(), **deepseek2_ffn(layer, 3)}


def mistral4_layer(_: int) -> dict[str, Shape]:
    merged: dict[str, Shape] = {
        "ffn_gate_inp": (N_EXPERT, N_EMBD),
        "ffn_gate_up_exps": (N_EXPERT, 2 * 64, N_EMBD),
        "ffn_down_exps": (N_EXPERT, N_EMBD, 64),
    }
    return {**absorbed_attention(), **merged, **feed_forward("_shexp", 64)}


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

LATENT_KEYS: dict[str, Value] = {  # attention is that of one head with large keys
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": Q_RANK,
    "attention.kv_lora_rank": KV_RANK,
    "attention.key_length": KV_RANK + N_ROT,
    "attention.value_length": KV_RANK,
    "attention.key_length_mla": N_NOPE + N_ROT,
    "attention.value_length_mla": V_DIM,
}

SCALED_QUERIES: dict[str, Value] = {
    "attention.temperature_scale": 0.1,
    "attention.temperature_length": 8,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.1,
    "expert_weights_norm": True,
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
            **LATENT_KEYS,
            "leading_dense_block_count": 3,
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
    TinyModel(
        name="kimi-k2",
        arch="deepseek2",
        known_as="Kimi K2, K2.5",
        special="one leading dense layer, one group of experts, YaRN with a large factor",
        layer=kimi_layer,
        n_layer=4,
        keys={
            **DEEPSEEK2_KEYS,
            **LATENT_KEYS,
            "leading_dense_block_count": 1,
            "rope.scaling.factor": 32.0,
            "rope.scaling.yarn_log_multiplier": 0.1,
            "expert_gating_func": 2,
            "expert_group_count": 1,
            "expert_group_used_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.827,
        },
    ),
    TinyModel(
        name="mistral-large-3",
        arch="deepseek2",
        known_as="Mistral Large 3",
        special="queries scaled by their position, three leading dense layers",
        layer=mistral_large_layer,
        n_layer=5,
        keys={
            **DEEPSEEK2_KEYS,
            **LATENT_KEYS,
            **SCALED_QUERIES,
            "leading_dense_block_count": 3,
            "expert_group_count": 1,
            "expert_group_used_count": 1,
            "expert_weights_scale": 1.0,
        },
    ),
    TinyModel(
        name="mistral4",
        arch="mistral4",
        known_as="Mistral Small 4",
        special="queries scaled by their position, experts whose gate and up are one tensor",
        layer=mistral4_layer,
        n_layer=3,
        keys={
            **DEEPSEEK2_KEYS,
            **LATENT_KEYS,
            **SCALED_QUERIES,
            "leading_dense_block_count": 0,
        },
    ),
)
