"""Mixtures of experts."""

from __future__ import annotations

import gguf

from architectures.layers import (
    HEADS,
    MIXTURE,
    attention,
    biases,
    experts,
    feed_forward,
    fused_attention,
    head_norms,
    layer_norms,
    norms,
    plain_layer,
    router_bias,
)
from architectures.tiny_model import (
    HEAD_DIM,
    N_CTX,
    N_EMBD,
    N_EXPERT,
    N_FF,
    N_HEAD,
    N_HEAD_KV,
    N_VOCAB,
    WINDOW,
    Shape,
    TinyModel,
    Value,
)


def mixture_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **experts(N_FF)}


def qwen2moe_layer(_: int) -> dict[str, Shape]:
    shared = {**feed_forward("_shexp", 96), "ffn_gate_inp_shexp": (N_EMBD,)}
    return {
        **norms("attn_norm", "ffn_norm"),
        **attention(bias=True),
        **experts(64),
        **shared,
    }


def qwen3moe_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **head_norms(), **experts(64)}


def gpt_oss_layer(_: int) -> dict[str, Shape]:
    return {
        **norms("attn_norm", "post_attention_norm", "attn_output.bias"),
        **attention(bias=True),
        "attn_sinks": (N_HEAD,),
        **experts(64),
        "ffn_gate_inp.bias": (N_EXPERT,),
        "ffn_gate_exps.bias": (N_EXPERT, 64),
        "ffn_up_exps.bias": (N_EXPERT, 64),
        "ffn_down_exps.bias": (N_EXPERT, N_EMBD),
    }


def minimax_layer(_: int) -> dict[str, Shape]:
    row_norms = {"attn_q_norm": (N_HEAD * HEAD_DIM,), "attn_k_norm": (N_HEAD_KV * HEAD_DIM,)}
    return {**mixture_layer(0), **row_norms, **router_bias()}


def ernie_moe_layer(layer: int) -> dict[str, Shape]:
    if layer < 1:
        return plain_layer(0)
    shared = feed_forward("_shexp", 96)
    return {
        **norms("attn_norm", "ffn_norm"),
        **attention(),
        **experts(64),
        **shared,
        **router_bias(),
    }


def hunyuan_moe_layer(_: int) -> dict[str, Shape]:
    return {**mixture_layer(0), **head_norms(), **feed_forward("_shexp", 96)}


def dots1_layer(layer: int) -> dict[str, Shape]:
    attention_ = {**norms("attn_norm", "ffn_norm"), **attention(n_head_kv=N_HEAD), **head_norms()}
    if layer < 1:
        return {**attention_, **feed_forward()}
    return {**attention_, **experts(64), **feed_forward("_shexp", 2 * 64), **router_bias()}


def dbrx_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "attn_output_norm"), **fused_attention(), **experts(N_FF)}


def granite_moe_layer(_: int) -> dict[str, Shape]:
    return {**mixture_layer(0), **feed_forward("_shexp", 96)}


def olmoe_layer(_: int) -> dict[str, Shape]:
    row_norms = norms("attn_q_norm", "attn_k_norm")
    return {**mixture_layer(0), **attention(n_head_kv=N_HEAD), **row_norms}


def phimoe_layer(_: int) -> dict[str, Shape]:
    norms_ = layer_norms("attn_norm", "ffn_norm")
    return {**norms_, **attention(bias=True), **biases("attn_output"), **experts(N_FF)}


MANY_KEYS: dict[str, Value] = {"attention.head_count_kv": N_HEAD}

MIXTURES = (
    TinyModel(
        name="llama-moe",
        arch="llama",
        known_as="Mixtral",
        special="mixture of experts",
        layer=mixture_layer,
        keys=MIXTURE,
    ),
    TinyModel(
        name="qwen2moe",
        arch="qwen2moe",
        known_as="Qwen 1.5 and 2 MoE",
        special="mixture of experts, a shared expert with a gate",
        layer=qwen2moe_layer,
        keys={
            **MIXTURE,
            "expert_feed_forward_length": 64,
            "expert_shared_feed_forward_length": 96,
        },
    ),
    TinyModel(
        name="qwen3moe",
        arch="qwen3moe",
        known_as="Qwen 3 MoE",
        special="mixture of experts, norms of queries and keys",
        layer=qwen3moe_layer,
        keys={**HEADS, **MIXTURE, "expert_feed_forward_length": 64},
    ),
    TinyModel(
        name="gpt-oss",
        arch="gpt-oss",
        known_as="gpt-oss",
        special="attention sinks, every other layer with a sliding window, experts in MXFP4",
        layer=gpt_oss_layer,
        keys={
            **HEADS,
            **MIXTURE,
            "expert_feed_forward_length": 64,
            "attention.sliding_window": WINDOW,
        },
        expert_type=gguf.GGMLQuantizationType.MXFP4,
    ),
    TinyModel(
        name="minimax-m2",
        arch="minimax-m2",
        known_as="MiniMax M2",
        special="norms of all queries and of all keys, half of each head rotated, a bias that "
        "chooses experts",
        layer=minimax_layer,
        n_layer=3,
        keys={
            **HEADS,
            **MIXTURE,
            "rope.dimension_count": HEAD_DIM // 2,
            "expert_feed_forward_length": N_FF,
            "expert_gating_func": 2,
        },
    ),
    TinyModel(
        name="ernie4_5-moe",
        arch="ernie4_5-moe",
        known_as="ERNIE 4.5 21B-A3B, 300B-A47B",
        special="a leading dense layer, then experts with a bias and shared ones",
        layer=ernie_moe_layer,
        n_layer=4,
        keys={
            **MIXTURE,
            "expert_feed_forward_length": 64,
            "expert_shared_feed_forward_length": 96,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": 1,
        },
        is_tied=True,
    ),
    TinyModel(
        name="hunyuan-moe",
        arch="hunyuan-moe",
        known_as="Hunyuan A13B",
        special="norms of queries and keys after rotation, a shared expert",
        layer=hunyuan_moe_layer,
        n_layer=3,
        keys={
            **HEADS,
            **MIXTURE,
            "expert_feed_forward_length": N_FF,
            "expert_shared_feed_forward_length": 96,
        },
    ),
    TinyModel(
        name="dots1",
        arch="dots1",
        known_as="dots.llm1",
        special="keys and values for each head, a leading dense layer, then experts with a bias "
        "and two shared ones",
        layer=dots1_layer,
        n_layer=4,
        keys={
            **HEADS,
            **MIXTURE,
            **MANY_KEYS,
            "leading_dense_block_count": 1,
            "expert_feed_forward_length": 64,
            "expert_shared_count": 2,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
        },
    ),
    TinyModel(
        name="dbrx",
        arch="dbrx",
        known_as="DBRX",
        special="fused projections that are clamped",
        layer=dbrx_layer,
        n_layer=3,
        keys={**MIXTURE, "attention.clamp_kqv": 0.5},
    ),
    TinyModel(
        name="granitemoe",
        arch="granitemoe",
        known_as="Granite 3 MoE",
        special="scales of embedding, residual, attention and logits; a shared expert",
        layer=granite_moe_layer,
        n_layer=3,
        keys={
            **MIXTURE,
            "logit_scale": 6.0,
            "residual_scale": 0.22,
            "embedding_scale": 12.0,
            "attention.scale": 0.0625,
            "expert_shared_feed_forward_length": 96,
        },
        is_tied=True,
    ),
    TinyModel(
        name="olmoe",
        arch="olmoe",
        known_as="OLMoE",
        special="norms of all queries and of all keys, keys and values for each head",
        layer=olmoe_layer,
        n_layer=3,
        keys={**MIXTURE, **MANY_KEYS},
    ),
    TinyModel(
        name="phimoe",
        arch="phimoe",
        known_as="Phi 3.5 MoE",
        special="biases everywhere, long-context factors",
        layer=phimoe_layer,
        n_layer=3,
        ends={
            **biases("output_norm"),
            "output.bias": (N_VOCAB,),
            "rope_factors_long": (HEAD_DIM // 2,),
            "rope_factors_short": (HEAD_DIM // 2,),
        },
        keys={**MIXTURE, "rope.scaling.original_context_length": N_CTX // 4},
    ),
)
