"""The text part of models that look at images: no image ever enters them here."""

from __future__ import annotations

from architectures.dense import glm4_layer
from architectures.layers import (
    HEADS,
    MIXTURE,
    attention,
    experts,
    head_normed_layer,
    head_norms,
    norms,
    plain_layer,
)
from architectures.tiny_model import HEAD_DIM, Shape, TinyModel, Value


def qwen3vlmoe_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **head_norms(), **experts(64)}


QWEN3VL_KEYS: dict[str, Value] = {
    **HEADS,
    "n_deepstack_layers": 2,
    "rope.dimension_sections": [6, 5, 5, 0],
}

VISION = (
    TinyModel(
        name="qwen3vl",
        arch="qwen3vl",
        known_as="Qwen 3 VL (text)",
        special="interleaved M-RoPE; images would enter at the first layers, too",
        layer=head_normed_layer,
        n_layer=4,
        keys=QWEN3VL_KEYS,
        is_tied=True,
    ),
    TinyModel(
        name="qwen3vlmoe",
        arch="qwen3vlmoe",
        known_as="Qwen 3 VL MoE (text)",
        special="the same, with experts",
        layer=qwen3vlmoe_layer,
        n_layer=4,
        keys={**QWEN3VL_KEYS, **MIXTURE, "expert_feed_forward_length": 64},
    ),
    TinyModel(
        name="glm4v",
        arch="glm4",
        known_as="GLM 4.1V (text)",
        special="M-RoPE of half of each head",
        layer=glm4_layer,
        n_layer=3,
        keys={"rope.dimension_count": HEAD_DIM // 2, "rope.dimension_sections": [2, 3, 3, 0]},
    ),
    TinyModel(
        name="granite-vision",
        arch="granite",
        known_as="Granite 4 Vision (text)",
        special="images would enter at some layers, too",
        layer=plain_layer,
        n_layer=4,
        keys={
            "logit_scale": 6.0,
            "residual_scale": 0.22,
            "embedding_scale": 12.0,
            "attention.scale": 0.0625,
            "deepstack_mapping": [0, -1, 1, -1],
        },
        is_tied=True,
    ),
)
