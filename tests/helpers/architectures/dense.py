"""Dense layers, each with attention to all of the text."""

from __future__ import annotations

from architectures.layers import (
    HEADS,
    attention,
    biased_layer,
    biases,
    feed_forward,
    fused_attention,
    head_normed_layer,
    head_norms,
    layer_norms,
    norms,
    plain_layer,
    ungated,
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
    Value,
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


def glm4_layer(_: int) -> dict[str, Shape]:
    gate_and_up = {"ffn_up": (2 * N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
    after = norms("post_attention_norm", "post_ffw_norm")
    return {**norms("attn_norm", "ffn_norm"), **attention(bias=True), **after, **gate_and_up}


def ernie_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **biases("attn_output")}


def seed_oss_layer(_: int) -> dict[str, Shape]:
    norms_ = norms("attn_norm", "post_attention_norm")
    return {**norms_, **attention(bias=True), **feed_forward()}


def nemotron_layer(_: int) -> dict[str, Shape]:
    norms_ = layer_norms("attn_norm", "ffn_norm")
    return {**norms_, **attention(), **biases("attn_output", "ffn_down"), **ungated()}


def arcee_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **ungated()}


def apertus_layer(_: int) -> dict[str, Shape]:
    return {**arcee_layer(0), **head_norms()}


def stablelm_layer(_: int) -> dict[str, Shape]:
    return {**layer_norms("attn_norm", "ffn_norm"), **attention(bias=True), **feed_forward()}


def stablelm_12b_layer(_: int) -> dict[str, Shape]:
    per_head = {"attn_q_norm": (N_HEAD, HEAD_DIM), "attn_k_norm": (N_HEAD_KV, HEAD_DIM)}
    return {**layer_norms("attn_norm"), **attention(), **per_head, **feed_forward()}


LLAMA3_ROPE: dict[str, Shape] = {"rope_freqs": (HEAD_DIM // 2,)}
HALF_ROTATED: dict[str, Value] = {"rope.dimension_count": HEAD_DIM // 2}


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
    TinyModel(
        name="glm4",
        arch="glm4",
        known_as="GLM 4 (0414), GLM Z1",
        special="norms before and after attention and feed-forward, half of each head rotated",
        layer=glm4_layer,
        n_layer=3,
        keys=HALF_ROTATED,
    ),
    TinyModel(
        name="ernie4_5",
        arch="ernie4_5",
        known_as="ERNIE 4.5 0.3B",
        special="a bias of attention's output",
        layer=ernie_layer,
        n_layer=3,
        is_tied=True,
    ),
    TinyModel(
        name="hunyuan-dense",
        arch="hunyuan-dense",
        known_as="Hunyuan 0.5B to 7B",
        special="norms of queries and keys after rotation, a base that is scaled",
        layer=head_normed_layer,
        n_layer=3,
        keys={**HEADS, "rope.scaling.alpha": 50.0},
        is_tied=True,
    ),
    TinyModel(
        name="seed_oss",
        arch="seed_oss",
        known_as="Seed-OSS 36B",
        special="biases of queries, keys and values; the norm before feed-forward has another name",
        layer=seed_oss_layer,
        n_layer=3,
        keys=HEADS,
    ),
    TinyModel(
        name="mistral3",
        arch="mistral3",
        known_as="Ministral 3",
        special="queries scaled by their position, YaRN",
        layer=plain_layer,
        n_layer=3,
        keys={
            **HEADS,
            "attention.temperature_scale": 0.1,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 16.0,
            "rope.scaling.original_context_length": 8,
            "rope.scaling.yarn_beta_fast": 32.0,
            "rope.scaling.yarn_beta_slow": 1.0,
            "rope.scaling.yarn_log_multiplier": 1.0,
        },
    ),
    TinyModel(
        name="smollm3",
        arch="smollm3",
        known_as="SmolLM 3",
        special="every fourth layer without rotation",
        layer=plain_layer,
        n_layer=6,
        is_tied=True,
    ),
    TinyModel(
        name="nemotron",
        arch="nemotron",
        known_as="Nemotron 3 and 4, Minitron",
        special="norms with biases, squared ReLU without a gate, half of each head rotated",
        layer=nemotron_layer,
        n_layer=3,
        ends=biases("output_norm"),
        keys=HALF_ROTATED,
    ),
    TinyModel(
        name="arcee",
        arch="arcee",
        known_as="Arcee AFM 4.5B",
        special="squared ReLU without a gate, frequency factors",
        layer=arcee_layer,
        n_layer=3,
        ends=LLAMA3_ROPE,
    ),
    TinyModel(
        name="apertus",
        arch="apertus",
        known_as="Apertus",
        special="xIELU with other parameters in each layer, norms of queries and keys",
        layer=apertus_layer,
        n_layer=4,
        ends=LLAMA3_ROPE,
        keys=HEADS,
        keys_as_they_are={
            "xielu.alpha_n": [0.8, 0.5, 1.1, 0.7],
            "xielu.alpha_p": [0.8, 1.3, 0.6, 0.9],
            "xielu.beta": [0.5, 0.6, 0.4, 0.7],
            "xielu.eps": [-1e-6, -2e-6, -1e-6, -3e-6],
        },
    ),
    TinyModel(
        name="internlm2",
        arch="internlm2",
        known_as="InternLM 2, 2.5",
        special="plain layers",
        layer=plain_layer,
        n_layer=3,
    ),
    TinyModel(
        name="stablelm",
        arch="stablelm",
        known_as="StableLM 3B, 2 1.6B",
        special="norms with biases, half of each head rotated",
        layer=stablelm_layer,
        n_layer=3,
        ends=biases("output_norm"),
        keys={**HALF_ROTATED, "use_parallel_residual": False},
    ),
    TinyModel(
        name="stablelm-12b",
        arch="stablelm",
        known_as="StableLM 2 12B",
        special="attention and feed-forward side by side, a norm for each head",
        layer=stablelm_12b_layer,
        n_layer=3,
        ends=biases("output_norm"),
        keys={**HALF_ROTATED, "use_parallel_residual": True},
    ),
    TinyModel(
        name="exaone",
        arch="exaone",
        known_as="EXAONE 3, 3.5",
        special="frequency factors of Llama 3",
        layer=plain_layer,
        n_layer=3,
        ends=LLAMA3_ROPE,
    ),
)
