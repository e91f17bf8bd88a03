"""Architectures of earlier years, and of models that came alone."""

from __future__ import annotations

from architectures.layers import (
    HEADS,
    MIXTURE,
    attention,
    biases,
    experts,
    feed_forward,
    fused_attention,
    layer_norms,
    norms,
    plain_layer,
    ungated,
)
from architectures.tiny_model import (
    HEAD_DIM,
    N_EMBD,
    N_FF,
    N_HEAD,
    N_HEAD_KV,
    Shape,
    TinyModel,
    Value,
)

N_FF_EXP, N_SHARED = 64, 2
SHARED_EXPERTS: dict[str, Value] = {
    **MIXTURE,
    "expert_feed_forward_length": N_FF_EXP,
    "expert_shared_count": N_SHARED,
}


def deepseek_layer(layer: int) -> dict[str, Shape]:
    if layer < 1:
        return plain_layer(layer)
    mixture = {**experts(N_FF_EXP), **feed_forward("_shexp", N_SHARED * N_FF_EXP)}
    return {**norms("attn_norm", "ffn_norm"), **attention(), **mixture}


def gptneox_layer(_: int) -> dict[str, Shape]:
    return {
        **layer_norms("attn_norm", "ffn_norm"),
        **fused_attention(),
        "attn_qkv.bias": (N_EMBD + 2 * N_HEAD_KV * HEAD_DIM,),
        **ungated(),
        **biases("attn_output", "ffn_down"),
        "ffn_up.bias": (N_FF,),
    }


def chatglm_layer(_: int) -> dict[str, Shape]:
    return {
        **norms("attn_norm", "ffn_norm"),
        **fused_attention(),
        "attn_qkv.bias": (N_EMBD + 2 * N_HEAD_KV * HEAD_DIM,),
        "ffn_up": (2 * N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
    }


def orion_layer(_: int) -> dict[str, Shape]:
    return {**layer_norms("attn_norm", "ffn_norm"), **attention(), **feed_forward()}


def qwen_layer(_: int) -> dict[str, Shape]:
    return {
        **norms("attn_norm", "ffn_norm"),
        "attn_qkv": (3 * N_EMBD, N_EMBD),
        "attn_qkv.bias": (3 * N_EMBD,),
        "attn_output": (N_EMBD, N_EMBD),
        **feed_forward(),
    }


OLDER = (
    TinyModel(
        name="minicpm",
        arch="minicpm",
        known_as="MiniCPM 1, 2",
        special="scales of embedding, residual and logits",
        layer=plain_layer,
        is_tied=True,
    ),
    TinyModel(
        name="chatglm",
        arch="chatglm",
        known_as="ChatGLM 3, GLM 4 9B of 2024",
        special="fused projections with a bias, half of each head rotated",
        layer=chatglm_layer,
        keys={"rope.dimension_count": HEAD_DIM // 2},
    ),
    TinyModel(
        name="deepseek",
        arch="deepseek",
        known_as="DeepSeek MoE",
        special="a leading dense layer, then experts and two shared ones",
        layer=deepseek_layer,
        keys={**SHARED_EXPERTS, "leading_dense_block_count": 1, "expert_weights_scale": 1.0},
    ),
    TinyModel(
        name="bailingmoe",
        arch="bailingmoe",
        known_as="Ling 1",
        special="experts with normed weights, and two shared ones",
        layer=lambda layer: deepseek_layer(layer + 1),
        keys={
            **HEADS,
            **SHARED_EXPERTS,
            "rope.dimension_count": HEAD_DIM,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.0,
        },
    ),
    TinyModel(
        name="gptneox",
        arch="gptneox",
        known_as="Pythia, GPT-NeoX 20B",
        special="attention and feed-forward side by side, biases everywhere",
        layer=gptneox_layer,
        ends=biases("output_norm"),
        keys={"use_parallel_residual": True, "rope.dimension_count": HEAD_DIM // 4},
    ),
    TinyModel(
        name="gptneox-serial",
        arch="gptneox",
        known_as="RedPajama INCITE, Dolly",
        special="attention before feed-forward",
        layer=gptneox_layer,
        ends=biases("output_norm"),
        keys={"use_parallel_residual": False},
    ),
    TinyModel(
        name="orion",
        arch="orion",
        known_as="Orion 14B",
        special="norms with a bias",
        layer=orion_layer,
        ends=biases("output_norm"),
    ),
    TinyModel(
        name="xverse",
        arch="xverse",
        known_as="XVERSE",
        special="nothing beside plain layers",
        layer=plain_layer,
    ),
    TinyModel(
        name="qwen",
        arch="qwen",
        known_as="Qwen 1",
        special="fused projections with a bias, a key for each query",
        layer=qwen_layer,
        keys={"attention.head_count_kv": N_HEAD, "feed_forward_length": 2 * N_FF},
    ),
)
