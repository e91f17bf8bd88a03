"""Mixtures of experts."""

from __future__ import annotations

import gguf

from architectures.layers import HEADS, MIXTURE, attention, experts, feed_forward, head_norms, norms
from architectures.tiny_model import N_EMBD, N_EXPERT, N_FF, N_HEAD, WINDOW, Shape, TinyModel


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
)
