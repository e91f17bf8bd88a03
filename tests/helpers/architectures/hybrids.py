"""Layers with a recurrent state, and some with attention between them."""

from __future__ import annotations

from architectures.layers import (
    HEADS,
    MIXTURE,
    attention,
    experts,
    feed_forward,
    head_norms,
    norms,
)
from architectures.prediction import predictor
from architectures.tiny_model import (
    HEAD_DIM,
    N_EMBD,
    N_EXPERT,
    N_FF,
    N_HEAD,
    N_HEAD_KV,
    Shape,
    TinyModel,
    Value,
)

N_LAYER = 6
CONV_KERNEL = 4
N_KEY_HEADS, N_VALUE_HEADS, STATE_DIM = 2, 4, 32  # of gated delta nets
KEY_DIM, VALUE_DIM = N_KEY_HEADS * STATE_DIM, N_VALUE_HEADS * STATE_DIM
CONV_DIM = 2 * KEY_DIM + VALUE_DIM
ATTENTION_INTERVAL = 3  # every third layer has attention

DELTA_NET: dict[str, Value] = {
    "ssm.conv_kernel": CONV_KERNEL,
    "ssm.state_size": STATE_DIM,
    "ssm.group_count": N_KEY_HEADS,
    "ssm.time_step_rank": N_VALUE_HEADS,
    "ssm.inner_size": VALUE_DIM,
    "full_attention_interval": ATTENTION_INTERVAL,
}
SECTIONS: dict[str, Value] = {
    "rope.dimension_count": HEAD_DIM // 2,
    "rope.dimension_sections": [3, 3, 2, 0],
}


def has_attention(layer: int) -> bool:
    return (layer + 1) % ATTENTION_INTERVAL == 0


def gated_attention() -> dict[str, Shape]:
    """Each head's queries, and a gate of what it returns."""
    return {**attention(), "attn_q": (2 * N_HEAD * HEAD_DIM, N_EMBD), **head_norms()}


def delta_net() -> dict[str, Shape]:
    return {
        "attn_qkv": (CONV_DIM, N_EMBD),
        "attn_gate": (VALUE_DIM, N_EMBD),
        "ssm_conv1d": (CONV_DIM, CONV_KERNEL),
        "ssm_dt.bias": (N_VALUE_HEADS,),
        "ssm_a.": (N_VALUE_HEADS,),
        "ssm_norm": (STATE_DIM,),
        "ssm_out": (N_EMBD, VALUE_DIM),
    }


def qwen35_mixer(layer: int) -> dict[str, Shape]:
    rates = {"ssm_beta": (N_VALUE_HEADS, N_EMBD), "ssm_alpha": (N_VALUE_HEADS, N_EMBD)}
    mixer = gated_attention() if has_attention(layer) else {**delta_net(), **rates}
    return {**norms("attn_norm", "post_attention_norm"), **mixer}


def qwen3next_mixer(layer: int) -> dict[str, Shape]:
    rates = {"ssm_ba": (2 * N_VALUE_HEADS, N_EMBD)}
    mixer = gated_attention() if has_attention(layer) else {**delta_net(), **rates}
    return {**norms("attn_norm", "post_attention_norm"), **mixer}


def qwen_experts() -> dict[str, Shape]:
    shared = {**feed_forward("_shexp", 96), "ffn_gate_inp_shexp": (N_EMBD,)}
    return {**experts(64), **shared}


def qwen35_layer(layer: int) -> dict[str, Shape]:
    return {**qwen35_mixer(layer), **feed_forward()}


def qwen35moe_layer(layer: int) -> dict[str, Shape]:
    return {**qwen35_mixer(layer), **qwen_experts()}


def qwen3next_layer(layer: int) -> dict[str, Shape]:
    return {**qwen3next_mixer(layer), **qwen_experts()}


def qwen_predictor() -> dict[str, Shape]:
    """A layer that predicts a further token has attention."""
    return {**norms("attn_norm", "post_attention_norm"), **gated_attention(), **predictor()}


QWEN_MIXTURE: dict[str, Value] = {
    **MIXTURE,
    "expert_feed_forward_length": 64,
    "expert_shared_feed_forward_length": 96,
}

N_SSM_HEAD, N_GROUP, D_INNER = 8, 2, 2 * N_EMBD  # of Mamba 2
SSM_CONV_DIM = D_INNER + 2 * N_GROUP * STATE_DIM
MAMBA2: dict[str, Value] = {
    "ssm.conv_kernel": CONV_KERNEL,
    "ssm.state_size": STATE_DIM,
    "ssm.group_count": N_GROUP,
    "ssm.time_step_rank": N_SSM_HEAD,
    "ssm.inner_size": D_INNER,
}
KV_HEADS: dict[str, Value] = {
    "attention.head_count_kv": [N_HEAD_KV if has_attention(i) else 0 for i in range(N_LAYER)]
}


def mamba2() -> dict[str, Shape]:
    return {
        "ssm_in": (D_INNER + SSM_CONV_DIM + N_SSM_HEAD, N_EMBD),
        "ssm_conv1d": (SSM_CONV_DIM, CONV_KERNEL),
        "ssm_conv1d.bias": (SSM_CONV_DIM,),
        "ssm_dt.bias": (N_SSM_HEAD,),
        "ssm_a.": (N_SSM_HEAD, 1),
        "ssm_d.": (N_SSM_HEAD, 1),
        "ssm_norm": (N_GROUP, D_INNER // N_GROUP),
        "ssm_out": (N_EMBD, D_INNER),
    }


def granite_layer(layer: int) -> dict[str, Shape]:
    mixer = attention() if has_attention(layer) else mamba2()
    shared = feed_forward("_shexp", 96)
    return {**norms("attn_norm", "ffn_norm"), **mixer, **experts(N_FF), **shared}


def falcon_h1_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm."), **attention(), **mamba2(), **feed_forward()}


# Mamba 2, attention or a network of its own in each layer
NEMOTRON = "mfmafm"
NEMOTRON_KEYS: dict[str, Value] = {
    **HEADS,
    **MAMBA2,
    "attention.head_count_kv": [N_HEAD_KV if each == "a" else 0 for each in NEMOTRON],
    "feed_forward_length": [N_FF if each == "f" else 0 for each in NEMOTRON],
}


def nemotron_layer(layer: int) -> dict[str, Shape]:
    kinds: dict[str, dict[str, Shape]] = {
        "m": mamba2(),
        "a": attention(),
        "f": {"ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)},
    }
    return {**norms("attn_norm"), **kinds[NEMOTRON[layer]]}


def nemotron_moe_layer(layer: int) -> dict[str, Shape]:
    if NEMOTRON[layer] != "f":
        return nemotron_layer(layer)
    return {
        **norms("attn_norm"),
        "ffn_gate_inp": (N_EXPERT, N_EMBD),
        "exp_probs_b.bias": (N_EXPERT,),
        "ffn_up_exps": (N_EXPERT, 64, N_EMBD),
        "ffn_down_exps": (N_EXPERT, N_EMBD, 64),
        "ffn_up_shexp": (96, N_EMBD),
        "ffn_down_shexp": (N_EMBD, 96),
    }


def short_convolution() -> dict[str, Shape]:
    return {
        "shortconv.conv": (N_EMBD, 3),
        "shortconv.in_proj": (3 * N_EMBD, N_EMBD),
        "shortconv.out_proj": (N_EMBD, N_EMBD),
    }


def lfm2_mixer(layer: int) -> dict[str, Shape]:
    mixer = {**attention(), **head_norms()} if has_attention(layer) else short_convolution()
    return {**norms("attn_norm", "ffn_norm"), **mixer}


def lfm2_layer(layer: int) -> dict[str, Shape]:
    return {**lfm2_mixer(layer), **feed_forward()}


def lfm2moe_layer(layer: int) -> dict[str, Shape]:
    if layer < 2:
        return lfm2_layer(layer)
    return {**lfm2_mixer(layer), **experts(64), "exp_probs_b.bias": (N_EXPERT,)}


LFM2: dict[str, Value] = {**KV_HEADS, "shortconv.l_cache": 3}
SIGMOID = 2  # enum llama_expert_gating_func_type

N_ROT, N_NOPE, V_DIM, KV_RANK = 32, 32, 32, 64  # of latent attention


def delta_attention() -> dict[str, Shape]:
    """Kimi's: three convolutions, and a rate for each channel."""
    n_inner = N_HEAD * STATE_DIM
    return {
        **{f"attn_{each}": (n_inner, N_EMBD) for each in "qkv"},
        **{f"ssm_conv1d_{each}": (n_inner, 1, CONV_KERNEL) for each in "qkv"},
        "ssm_f_a": (STATE_DIM, N_EMBD),
        "ssm_f_b": (n_inner, STATE_DIM),
        "ssm_beta": (N_HEAD, N_EMBD),
        "ssm_a.": (N_HEAD, 1),
        "ssm_dt.bias": (n_inner,),
        "ssm_g_a": (STATE_DIM, N_EMBD),
        "ssm_g_b": (n_inner, STATE_DIM),
        "ssm_norm": (STATE_DIM,),
        "attn_output": (N_EMBD, n_inner),
    }


def latent_attention() -> dict[str, Shape]:
    return {
        "attn_q": (N_HEAD * (N_NOPE + N_ROT), N_EMBD),
        "attn_kv_a_mqa": (KV_RANK + N_ROT, N_EMBD),
        "attn_kv_a_norm": (KV_RANK,),
        "attn_k_b": (N_HEAD, KV_RANK, N_NOPE),
        "attn_v_b": (N_HEAD, V_DIM, KV_RANK),
        "attn_output": (N_EMBD, N_HEAD * V_DIM),
    }


def kimi_layer(layer: int) -> dict[str, Shape]:
    mixer = latent_attention() if has_attention(layer) else delta_attention()
    bias: dict[str, Shape] = {"exp_probs_b.bias": (N_EXPERT,)}
    mixture = {**experts(64), **feed_forward("_shexp", 64), **bias}
    ffn = feed_forward() if layer == 0 else mixture
    return {**norms("attn_norm", "ffn_norm"), **mixer, **ffn}


HYBRIDS = (
    TinyModel(
        name="qwen35",
        arch="qwen35",
        known_as="Qwen 3.5, 3.6 (dense)",
        special="gated delta nets with a state, every third layer with gated attention; positions "
        "of three dimensions; a prediction layer",
        layer=qwen35_layer,
        nextn=lambda _: {**qwen_predictor(), **feed_forward()},
        n_layer=N_LAYER,
        keys={**HEADS, **DELTA_NET, **SECTIONS},
        is_tied=True,
    ),
    TinyModel(
        name="qwen35moe",
        arch="qwen35moe",
        known_as="Qwen 3.5, 3.6 with experts",
        special="the same, with experts and a gated shared one",
        layer=qwen35moe_layer,
        nextn=lambda _: {**qwen_predictor(), **qwen_experts()},
        n_layer=N_LAYER,
        keys={**HEADS, **DELTA_NET, **SECTIONS, **QWEN_MIXTURE},
    ),
    TinyModel(
        name="qwen3next",
        arch="qwen3next",
        known_as="Qwen 3 Next, Qwen 3 Coder Next",
        special="the same with positions of one dimension",
        layer=qwen3next_layer,
        nextn=lambda _: {**qwen_predictor(), **qwen_experts()},
        n_layer=N_LAYER,
        keys={**HEADS, **DELTA_NET, **QWEN_MIXTURE, "rope.dimension_count": HEAD_DIM // 2},
    ),
    TinyModel(
        name="granitehybrid",
        arch="granitehybrid",
        known_as="Granite 4",
        special="Mamba 2, every third layer with attention; scales of embedding, residual, "
        "attention and logits, experts and a shared one",
        layer=granite_layer,
        n_layer=N_LAYER,
        keys={
            **HEADS,
            **MAMBA2,
            **KV_HEADS,
            **MIXTURE,
            "expert_shared_feed_forward_length": 96,
            "embedding_scale": 12.0,
            "residual_scale": 0.22,
            "attention.scale": 0.0078125,
            "logit_scale": 8.0,
            "rope.dimension_count": HEAD_DIM,
        },
    ),
    TinyModel(
        name="falcon-h1",
        arch="falcon-h1",
        known_as="Falcon H1",
        special="Mamba 2 and attention side by side in each layer",
        layer=falcon_h1_layer,
        n_layer=N_LAYER,
        keys={**HEADS, **MAMBA2, "rope.dimension_count": HEAD_DIM},
    ),
    TinyModel(
        name="nemotron_h",
        arch="nemotron_h",
        known_as="Nemotron H, Nemotron Nano 2",
        special="Mamba 2, attention without positions, or a network with squared ReLU in each "
        "layer",
        layer=nemotron_layer,
        n_layer=N_LAYER,
        keys=NEMOTRON_KEYS,
    ),
    TinyModel(
        name="nemotron_h_moe",
        arch="nemotron_h_moe",
        known_as="Nemotron 3",
        special="the same, with experts and a shared one",
        layer=nemotron_moe_layer,
        n_layer=N_LAYER,
        keys={
            **NEMOTRON_KEYS,
            **QWEN_MIXTURE,
            "expert_shared_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
        },
    ),
    TinyModel(
        name="lfm2",
        arch="lfm2",
        known_as="LFM 2",
        special="short convolutions with a state, every third layer with attention",
        layer=lfm2_layer,
        n_layer=N_LAYER,
        keys=LFM2,
        last_norm="token_embd_norm",
        is_tied=True,
    ),
    TinyModel(
        name="lfm2moe",
        arch="lfm2moe",
        known_as="LFM 2 with experts",
        special="the same; two dense layers, then experts with a bias",
        layer=lfm2moe_layer,
        n_layer=N_LAYER,
        keys={
            **LFM2,
            **MIXTURE,
            "leading_dense_block_count": 2,
            "expert_feed_forward_length": 64,
            "expert_gating_func": SIGMOID,
        },
        last_norm="token_embd_norm",
        is_tied=True,
    ),
    TinyModel(
        name="kimi-linear",
        arch="kimi-linear",
        known_as="Kimi Linear",
        special="delta attention with a state and a rate for each channel, every third layer with "
        "latent attention; one dense layer, then experts with a bias and a shared one",
        layer=kimi_layer,
        n_layer=N_LAYER,
        keys={
            **MIXTURE,
            "ssm.conv_kernel": CONV_KERNEL,
            "kda.head_dim": STATE_DIM,
            "attention.head_count_kv": [int(has_attention(i)) for i in range(N_LAYER)],
            "attention.kv_lora_rank": KV_RANK,
            "attention.key_length": KV_RANK + N_ROT,
            "attention.value_length": KV_RANK,
            "attention.key_length_mla": N_NOPE + N_ROT,
            "attention.value_length_mla": V_DIM,
            "rope.dimension_count": N_ROT,
            "expert_shared_count": 1,
            "expert_feed_forward_length": 64,
            "leading_dense_block_count": 1,
            "expert_gating_func": SIGMOID,
            "expert_weights_scale": 2.5,
        },
    ),
)
