"""Dense layers, each with attention to all of the text."""

from __future__ import annotations

from architectures.layers import (
    HEADS,
    attention,
    biased_layer,
    feed_forward,
    fused_attention,
    head_normed_layer,
    norms,
    plain_layer,
)
from architectures.tiny_model import (
    HEAD_DIM,
    N_CTX,
    N_EMBD,
    N_FF,
    N_HEAD,
    N_HEAD_KV,
    Shape,
    TinyModel,
)

LONG_ROPE: dict[str, Shape] = {
    "rope_factors_long": (HEAD_DIM // 2,),
    "rope_factors_short": (HEAD_DIM // 2,),
}


def phi3_layer(_: int) -> dict[str, Shape]:
    ffn = {"ffn_up": (2 * N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
    return {**norms("attn_norm", "ffn_norm"), **fused_attention(), **ffn}


def falcon_layer(_: int) -> dict[str, Shape]:
    ffn = {"ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
    return {**norms("attn_norm", "attn_norm.bias"), **fused_attention(), **ffn}


def falcon_40b_layer(_: int) -> dict[str, Shape]:
    return {**falcon_layer(0), **norms("attn_norm_2", "attn_norm_2.bias")}


def olmo2_layer(_: int) -> dict[str, Shape]:
    row_norms = {"attn_q_norm": (N_EMBD,), "attn_k_norm": (N_HEAD_KV * HEAD_DIM,)}
    after = norms("post_attention_norm", "post_ffw_norm")
    return {**attention(), **row_norms, **after, **feed_forward()}


def starcoder2_layer(_: int) -> dict[str, Shape]:
    biases = {"attn_output.bias": (N_EMBD,), "ffn_up.bias": (N_FF,), "ffn_down.bias": (N_EMBD,)}
    return {
        **norms("attn_norm", "attn_norm.bias", "ffn_norm", "ffn_norm.bias"),
        **attention(bias=True),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
        **biases,
    }


def command_r_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm"), **attention(), **feed_forward()}


def command_r_plus_layer(_: int) -> dict[str, Shape]:
    per_head = {"attn_q_norm": (N_HEAD, HEAD_DIM), "attn_k_norm": (N_HEAD_KV, HEAD_DIM)}
    return {**command_r_layer(0), **per_head}


DENSE = (
    TinyModel(
        name="llama",
        arch="llama",
        known_as="Llama 1 to 3, Mistral, SmolLM2, TinyLlama",
        special="frequency factors of Llama 3 (one tensor for all layers)",
        layer=plain_layer,
        ends={"rope_freqs": (HEAD_DIM // 2,)},
        is_tied=True,
    ),
    TinyModel(
        name="qwen2",
        arch="qwen2",
        known_as="Qwen 2, 2.5",
        special="biases of queries, keys and values",
        layer=biased_layer,
        is_tied=True,
    ),
    TinyModel(
        name="qwen3",
        arch="qwen3",
        known_as="Qwen 3",
        special="norms of queries and keys",
        layer=head_normed_layer,
        keys=HEADS,
    ),
    TinyModel(
        name="qwen3-embedding",
        arch="qwen3",
        known_as="Qwen 3 Embedding",
        special="hidden states that are to be pooled",
        layer=head_normed_layer,
        keys={**HEADS, "pooling_type": 3},
    ),
    TinyModel(
        name="gemma",
        arch="gemma",
        known_as="Gemma",
        special="scaled embeddings, tied output",
        layer=plain_layer,
        keys=HEADS,
        is_tied=True,
    ),
    TinyModel(
        name="phi3",
        arch="phi3",
        known_as="Phi 3, 3.5, 4",
        special="fused projections, long-context factors (one tensor for all layers)",
        layer=phi3_layer,
        ends=LONG_ROPE,
        keys={"rope.scaling.original_context_length": N_CTX // 4},
    ),
    TinyModel(
        name="phi3-short",
        arch="phi3",
        known_as="Phi 3, in its original context",
        special="short-context factors",
        layer=phi3_layer,
        ends=LONG_ROPE,
        keys={"rope.scaling.original_context_length": N_CTX},
    ),
    TinyModel(
        name="falcon",
        arch="falcon",
        known_as="Falcon 7B",
        special="attention and feed-forward side by side",
        layer=falcon_layer,
        ends=norms("output_norm.bias"),
    ),
    TinyModel(
        name="falcon-40b",
        arch="falcon",
        known_as="Falcon 40B, 180B",
        special="a norm of its own for attention",
        layer=falcon_40b_layer,
        ends=norms("output_norm.bias"),
    ),
    TinyModel(
        name="granite",
        arch="granite",
        known_as="Granite 3",
        special="scales of embedding, residual, attention and logits",
        layer=plain_layer,
        keys={
            "logit_scale": 6.0,
            "residual_scale": 0.22,
            "embedding_scale": 12.0,
            "attention.scale": 0.0625,
        },
        is_tied=True,
    ),
    TinyModel(
        name="olmo2",
        arch="olmo2",
        known_as="OLMo 2",
        special="norms after attention and feed-forward",
        layer=olmo2_layer,
    ),
    TinyModel(
        name="starcoder2",
        arch="starcoder2",
        known_as="StarCoder 2",
        special="biases everywhere",
        layer=starcoder2_layer,
        ends=norms("output_norm.bias"),
        is_tied=True,
    ),
    TinyModel(
        name="command-r",
        arch="command-r",
        known_as="Command R",
        special="attention and feed-forward side by side, scaled logits",
        layer=command_r_layer,
        keys={"logit_scale": 0.0625},
        is_tied=True,
    ),
    TinyModel(
        name="command-r-plus",
        arch="command-r",
        known_as="Command R+",
        special="64 layers or more: queries and keys have norms",
        layer=command_r_plus_layer,
        n_layer=64,
        keys={"logit_scale": 0.0625},
        is_tied=True,
    ),
)
