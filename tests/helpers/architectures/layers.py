"""Pieces of layers: names of tensors to shapes, rows first. And keys that go with them."""

from __future__ import annotations

from architectures.tiny_model import (
    HEAD_DIM,
    N_EMBD,
    N_EXPERT,
    N_EXPERT_USED,
    N_FF,
    N_HEAD,
    N_HEAD_KV,
    Shape,
    Value,
)

MIXTURE: dict[str, Value] = {"expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED}
HEADS: dict[str, Value] = {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM}


def attention(
    *,
    bias: bool = False,
    head_dim: int = HEAD_DIM,
    n_head: int = N_HEAD,
    n_head_kv: int = N_HEAD_KV,
) -> dict[str, Shape]:
    n_q, n_kv = n_head * head_dim, n_head_kv * head_dim
    weights = {
        "attn_q": (n_q, N_EMBD),
        "attn_k": (n_kv, N_EMBD),
        "attn_v": (n_kv, N_EMBD),
        "attn_output": (N_EMBD, n_q),
    }
    biases = {"attn_q.bias": (n_q,), "attn_k.bias": (n_kv,), "attn_v.bias": (n_kv,)}
    return {**weights, **biases} if bias else {**weights}


def fused_attention() -> dict[str, Shape]:
    n_q, n_kv = N_HEAD * HEAD_DIM, N_HEAD_KV * HEAD_DIM
    return {"attn_qkv": (n_q + 2 * n_kv, N_EMBD), "attn_output": (N_EMBD, n_q)}


def norms(*names: str) -> dict[str, Shape]:
    return dict.fromkeys(names, (N_EMBD,))


def head_norms() -> dict[str, Shape]:
    return {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}


def biases(*names: str) -> dict[str, Shape]:
    """Of tensors with a row per element of the hidden state."""
    return {f"{name}.bias": (N_EMBD,) for name in names}


def layer_norms(*names: str) -> dict[str, Shape]:
    """Norms with a bias, of mean and variance."""
    return {**norms(*names), **biases(*names)}


def ungated(n_ff: int = N_FF) -> dict[str, Shape]:
    return {"ffn_up": (n_ff, N_EMBD), "ffn_down": (N_EMBD, n_ff)}


def feed_forward(suffix: str = "", n_ff: int = N_FF) -> dict[str, Shape]:
    return {
        f"ffn_gate{suffix}": (n_ff, N_EMBD),
        f"ffn_up{suffix}": (n_ff, N_EMBD),
        f"ffn_down{suffix}": (N_EMBD, n_ff),
    }


def experts(n_ff: int, n_expert: int = N_EXPERT) -> dict[str, Shape]:
    return {
        "ffn_gate_inp": (n_expert, N_EMBD),
        "ffn_gate_exps": (n_expert, n_ff, N_EMBD),
        "ffn_up_exps": (n_expert, n_ff, N_EMBD),
        "ffn_down_exps": (n_expert, N_EMBD, n_ff),
    }


def router_bias() -> dict[str, Shape]:
    return {"exp_probs_b.bias": (N_EXPERT,)}


def plain_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **feed_forward()}


def biased_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **attention(bias=True)}


def head_normed_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **head_norms()}
