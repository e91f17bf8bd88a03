"""The states of recurrent layers: which layers have some, and what one takes of memory."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeinfer_cli.models.gguf.reader import GgufFile, layer_of

FLOAT_BYTES = 4  # states are F32
# What only layers with a recurrent state have, beside attention or instead of it.
RECURRENT = re.compile(r"\.(ssm_|shortconv\.)")
KEYS = re.compile(r"\.(attn_k|attn_kv_a_mqa)\.")


def state_layer_bytes(files: Iterable[GgufFile], arch: str, n_embd: int) -> dict[int, int]:
    """Bytes of one state of each layer that has some: {layer: bytes}. 0 if unknown."""
    header, *_ = files = list(files)
    n_bytes = _state_bytes(header, arch, n_embd)
    return dict.fromkeys(sorted(_layers_with(files, RECURRENT)), n_bytes)


def keyless_layers(files: Iterable[GgufFile]) -> frozenset[int]:
    """The layers that have a state instead of a KV cache."""
    files = list(files)
    return _layers_with(files, RECURRENT) - _layers_with(files, KEYS)


def _layers_with(files: Iterable[GgufFile], pattern: re.Pattern[str]) -> frozenset[int]:
    names = [tensor.name for file in files for tensor in file.tensors]
    layers = [layer_of(name) for name in names if pattern.search(name)]
    return frozenset(layer for layer in layers if layer is not None)


def _state_bytes(header: GgufFile, arch: str, n_embd: int) -> int:
    """What convolutions remember, and what is summed up: llama.cpp's n_embd_r and n_embd_s."""

    def count(name: str) -> int:
        return header.count(f"{arch}.{name}") or 0

    n_taps = max(count("ssm.conv_kernel") - 1, 0)
    if n_short := count("shortconv.l_cache"):
        n_floats = n_embd * (n_short - 1)
    elif head_dim := count("kda.head_dim"):
        n_inner = count("attention.head_count") * head_dim
        n_floats = 3 * n_taps * n_inner + head_dim * n_inner
    else:
        n_inner, n_state = count("ssm.inner_size"), count("ssm.state_size")
        n_floats = n_taps * (n_inner + 2 * count("ssm.group_count") * n_state) + n_inner * n_state
    return n_floats * FLOAT_BYTES
