"""Why a model cannot be split by layers, though its architecture may be one that can."""

from __future__ import annotations

from pipeinfer_cli.models.gguf.reader import GgufFile

# What stages would have to be sent beside hidden states. llama.cpp reads it from these keys, or
# knows it of an architecture.
KEYS = {
    "attention.shared_kv_layers": "its last layers use the keys and values of earlier ones",
    "embedding_length_per_layer_input": "each layer takes an input of its own, computed from the "
    "token",
}
ARCHS = {
    "gemma3n": "four streams of hidden states go from layer to layer, and its last layers use the "
    "keys and values of earlier ones",
}


def find_obstacle(header: GgufFile, arch: str) -> str:
    """What a model with this header does that a split cannot; empty if nothing is known."""
    known = (why for key, why in KEYS.items() if header.count(f"{arch}.{key}"))
    return ARCHS.get(arch) or next(known, "")
