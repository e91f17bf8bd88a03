"""Layers that look back at a window of the text only."""

from __future__ import annotations

from architectures.dense import olmo2_layer
from architectures.layers import HEADS, head_norms, norms, plain_layer
from architectures.tiny_model import WINDOW, Shape, TinyModel


def gemma2_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **norms("post_attention_norm", "post_ffw_norm")}


def gemma3_layer(_: int) -> dict[str, Shape]:
    return {**gemma2_layer(0), **head_norms()}


WINDOWS = (
    TinyModel(
        name="gemma2",
        arch="gemma2",
        known_as="Gemma 2",
        special="scaled embeddings, every other layer with a sliding window, capped logits",
        layer=gemma2_layer,
        keys={
            **HEADS,
            "attention.sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
        is_tied=True,
    ),
    TinyModel(
        name="gemma3",
        arch="gemma3",
        known_as="Gemma 3 (text)",
        special="scaled embeddings, five of six layers with a sliding window and a rotation of "
        "their own",
        layer=gemma3_layer,
        n_layer=8,
        keys={**HEADS, "attention.sliding_window": WINDOW, "rope.freq_base": 1e6},
        is_tied=True,
    ),
    TinyModel(
        name="olmo3",
        arch="olmo2",
        known_as="OLMo 3",
        special="three of four layers with a sliding window and no frequency scaling",
        layer=olmo2_layer,
        n_layer=6,
        keys={
            "attention.sliding_window": WINDOW,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
)
