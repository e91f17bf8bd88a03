"""Files that have a layer for predictions after those of the text: it is left out.

llama.cpp loads such files without it, too, unless it is asked for it. Some of its models look for
tensors by the names that they have in the whole file.
"""

from __future__ import annotations

from architectures.latent import (
    DEEPSEEK2_KEYS,
    LATENT_KEYS,
    N_ROT,
    deepseek2_layer,
    deepseek2_layer_after,
)
from architectures.layers import (
    HEADS,
    MIXTURE,
    attention,
    experts,
    feed_forward,
    fused_attention,
    head_norms,
    norms,
    router_bias,
)
from architectures.tiny_model import (
    HEAD_DIM,
    N_EMBD,
    N_EXPERT,
    N_VOCAB,
    WINDOW,
    Shape,
    TinyModel,
    Value,
)

SHARED: dict[str, Value] = {
    **MIXTURE,
    "leading_dense_block_count": 1,
    "expert_feed_forward_length": 64,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "expert_weights_scale": 2.5,
    "expert_weights_norm": True,
}


def predictor(*, has_own_head: bool = False) -> dict[str, Shape]:
    """What a prediction layer has beside a layer."""
    own: dict[str, Shape] = {
        "nextn.embed_tokens": (N_VOCAB, N_EMBD),
        "nextn.shared_head_head": (N_VOCAB, N_EMBD),
    }
    return {
        "nextn.eh_proj": (N_EMBD, 2 * N_EMBD),
        **norms("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"),
        **(own if has_own_head else {}),
    }


def shared_mixture() -> dict[str, Shape]:
    return {**experts(64), **feed_forward("_shexp", 64), **router_bias()}


def glm4moe_layer(layer: int) -> dict[str, Shape]:
    norms_ = {**norms("attn_norm", "post_attention_norm"), **head_norms()}
    ffn = feed_forward() if layer < 1 else shared_mixture()
    return {**norms_, **attention(bias=True), **ffn}


def hy_v3_layer(layer: int) -> dict[str, Shape]:
    attention_ = {**norms("attn_norm", "ffn_norm"), **attention(), **head_norms()}
    if layer < 1:
        return {**attention_, **feed_forward()}
    mixture = {**experts(64), **feed_forward("_shexp", 64)}
    return {**attention_, **mixture, "exp_probs_b": (N_EXPERT,)}


def bailing_layer(layer: int) -> dict[str, Shape]:
    attention_ = {**norms("attn_norm", "ffn_norm"), **fused_attention(), **head_norms()}
    return {**attention_, **(feed_forward() if layer < 1 else shared_mixture())}


def exaone_moe_layer(layer: int) -> dict[str, Shape]:
    attention_ = {**norms("attn_norm", "ffn_norm"), **attention(), **head_norms()}
    return {**attention_, **(feed_forward() if layer < 1 else shared_mixture())}


def glm_flash_layer(layer: int) -> dict[str, Shape]:
    return deepseek2_layer_after(1, layer)


PREDICTION = (
    TinyModel(
        name="glm4moe",
        arch="glm4moe",
        known_as="GLM 4.5, 4.6, 4.7 (also Air)",
        special="a leading dense layer, then experts with a bias and a shared one; biases of "
        "queries, keys and values; a prediction layer, left out",
        layer=glm4moe_layer,
        n_layer=4,
        nextn=lambda layer: {**glm4moe_layer(layer), **predictor(has_own_head=True)},
        keys={**HEADS, **SHARED, "rope.dimension_count": HEAD_DIM // 2},
    ),
    TinyModel(
        name="hy_v3",
        arch="hy_v3",
        known_as="Hunyuan 3",
        special="a dense layer, then experts with a bias and a shared one; norms of queries and "
        "keys; a prediction layer, left out",
        layer=hy_v3_layer,
        n_layer=4,
        nextn=lambda layer: {**hy_v3_layer(layer), **predictor()},
        keys={**HEADS, **SHARED, "expert_shared_feed_forward_length": 64},
    ),
    TinyModel(
        name="bailingmoe2",
        arch="bailingmoe2",
        known_as="Ling 2, Ring 2",
        special="groups of experts, a leading dense layer, fused projections, half of each head "
        "rotated; a prediction layer, left out",
        layer=bailing_layer,
        n_layer=4,
        nextn=lambda layer: {**bailing_layer(layer), **predictor(), **norms("layer_output_norm")},
        keys={
            **HEADS,
            **SHARED,
            "rope.dimension_count": HEAD_DIM // 2,
            "expert_shared_feed_forward_length": 64,
            "expert_group_count": 2,
            "expert_group_used_count": 1,
        },
    ),
    TinyModel(
        name="exaone-moe-nextn",
        arch="exaone-moe",
        known_as="K-EXAONE",
        special="three of four layers with a sliding window, the others without rotation; a dense "
        "prediction layer, left out",
        layer=exaone_moe_layer,
        n_layer=5,
        nextn=lambda _: {**exaone_moe_layer(0), **predictor()},
        keys={
            **HEADS,
            **SHARED,
            "expert_shared_feed_forward_length": 64,
            "attention.sliding_window": WINDOW,
        },
    ),
    TinyModel(
        name="deepseek2-nextn",
        arch="deepseek2",
        known_as="DeepSeek V3, R1 with their prediction layer",
        special="groups of experts; a prediction layer, left out",
        layer=deepseek2_layer,
        n_layer=5,
        nextn=lambda layer: {**deepseek2_layer(layer), **predictor(has_own_head=True)},
        keys={
            **DEEPSEEK2_KEYS,
            **LATENT_KEYS,
            "leading_dense_block_count": 3,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
            "expert_group_count": 2,
            "expert_group_used_count": 1,
        },
    ),
    TinyModel(
        name="glm-4.7-flash",
        arch="deepseek2",
        known_as="GLM 4.7 Flash",
        special="one leading dense layer, no YaRN; a prediction layer, left out",
        layer=glm_flash_layer,
        n_layer=4,
        nextn=lambda layer: {**glm_flash_layer(layer), **predictor(has_own_head=True)},
        keys={
            **MIXTURE,
            **LATENT_KEYS,
            "rope.dimension_count": N_ROT,
            "rope.freq_base": 1e6,
            "leading_dense_block_count": 1,
            "expert_feed_forward_length": 64,
            "expert_shared_count": 1,
            "expert_gating_func": 2,
            "expert_group_count": 1,
            "expert_group_used_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.8,
        },
    ),
)
