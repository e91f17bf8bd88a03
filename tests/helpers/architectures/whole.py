"""Models that are exact on one rank, and cannot be split: stages need more than hidden states."""

from __future__ import annotations

from architectures.layers import HEADS, attention, feed_forward, head_norms, norms
from architectures.tiny_model import (
    HEAD_DIM,
    N_EMBD,
    N_FF,
    N_VOCAB,
    WINDOW,
    Shape,
    TinyModel,
)
from architectures.windows import GEMMA4_HEADS

PER_LAYER = 32  # elements of a layer's own input
E2B_WINDOWS = [True, True, False, True, True, False, True, False]
E2B_SHARED = 2  # layers at the end that use the keys and values of earlier ones
E2B_FF = [N_FF] * 6 + [2 * N_FF] * E2B_SHARED
GEMMA3N_LAYERS = 25  # llama.cpp has those after the twentieth share keys and values
ALTUP, ALTUP_EMBD, LAUREL_RANK = 4, 256, 64  # llama.cpp does not read them from the file


def own_input(n_input: int) -> dict[str, Shape]:
    return {
        "inp_gate": (n_input, N_EMBD),
        "proj": (N_EMBD, n_input),
        **norms("post_norm"),
    }


def own_inputs(n_input: int, n_layer: int) -> dict[str, Shape]:
    return {
        "per_layer_token_embd": (N_VOCAB, n_input * n_layer),
        "per_layer_model_proj": (n_input * n_layer, N_EMBD),
        "per_layer_proj_norm": (n_input,),
    }


def gemma4_e2b_layer(layer: int) -> dict[str, Shape]:
    head_dim = HEAD_DIM if E2B_WINDOWS[layer] else 64
    of_heads = {
        **attention(head_dim=head_dim),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
    }
    if layer >= len(E2B_WINDOWS) - E2B_SHARED:
        of_heads = {name: of_heads[name] for name in ("attn_q", "attn_output", "attn_q_norm")}
    return {
        **norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        **of_heads,
        **feed_forward(n_ff=E2B_FF[layer]),
        **own_input(PER_LAYER),
        "layer_output_scale": (1,),
    }


def gemma3n_layer(_: int) -> dict[str, Shape]:
    return {
        **norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        **attention(),
        **head_norms(),
        **feed_forward(),
        **own_input(ALTUP_EMBD),
        "altup_correct_coef": (ALTUP, ALTUP),
        "altup_correct_scale": (N_EMBD,),
        "altup_predict_coef": (ALTUP * ALTUP, ALTUP),
        "altup_router": (ALTUP, N_EMBD),
        **norms("altup_router_norm", "laurel_post_norm"),
        "laurel_l": (LAUREL_RANK, N_EMBD),
        "laurel_r": (N_EMBD, LAUREL_RANK),
    }


WHOLE = (
    TinyModel(
        name="gemma4-e2b",
        arch="gemma4",
        known_as="Gemma 4 E2B, E4B",
        special="the last layers use the keys and values of earlier ones, and each takes an input "
        "of its own, computed from the token",
        layer=gemma4_e2b_layer,
        ends={"rope_freqs": (32,), **own_inputs(PER_LAYER, len(E2B_WINDOWS))},
        n_layer=len(E2B_WINDOWS),
        keys={
            **GEMMA4_HEADS,
            "attention.sliding_window_pattern": E2B_WINDOWS,
            "attention.shared_kv_layers": E2B_SHARED,
            "embedding_length_per_layer_input": PER_LAYER,
            "feed_forward_length": E2B_FF,
        },
        is_tied=True,
    ),
    TinyModel(
        name="gemma3n",
        arch="gemma3n",
        known_as="Gemma 3n",
        special="four streams of hidden states, shared keys and values, an input for each layer",
        layer=gemma3n_layer,
        ends={
            **own_inputs(ALTUP_EMBD, GEMMA3N_LAYERS),
            "altup_proj": (ALTUP - 1, N_EMBD, N_EMBD),
            "altup_unembd_proj": (ALTUP - 1, N_EMBD, N_EMBD),
        },
        n_layer=GEMMA3N_LAYERS,
        keys={
            **HEADS,
            "attention.sliding_window": WINDOW,
            "rope.freq_base": 1e6,
            "rope.freq_base_swa": 1e4,
        },
        is_tied=True,
    ),
)
