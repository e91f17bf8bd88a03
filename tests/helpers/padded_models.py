"""Small models with another's vocabulary, and a few tokens more that they always prefer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from random_gguf import Shape, begin, copy_field, tensor_shapes, weights, write


def tiny_llama(source: Path, path: Path, *, n_more: int = 0) -> Path:
    """Writes a llama with random weights and the vocabulary of `source`, padded with n_more.

    Padding tokens have the type that converters give them: unused.
    """
    reader = gguf.GGUFReader(source)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    shape = Shape(n_layer=2, n_embd=64, n_ff=64, n_vocab=n_vocab + n_more, n_head=2, n_head_kv=2)
    writer = begin(path, "llama", shape)
    writer.add_rope_dimension_count(shape.head_dim)
    more = {
        "tokenizer.ggml.tokens": [f"[PAD{n_vocab + i}]" for i in range(n_more)],
        "tokenizer.ggml.token_type": [int(gguf.TokenType.UNUSED)] * n_more,
    }
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            value = field.contents()
            copy_field(field, writer, value + more[field.name] if field.name in more else value)
    for name, size in tensor_shapes(shape, tied=True).items():
        if name == "token_embd.weight":
            writer.add_tensor(name, _embeddings(size, n_vocab))
        else:
            writer.add_tensor(name, weights(name, size) * (1 if len(size) == 1 else 0.1))
    write(writer)
    return path


def _embeddings(size: tuple[int, ...], n_vocab: int) -> np.ndarray:
    """Rows that all lean to one side, along which those of the padding go furthest."""
    rows = weights("token_embd.weight", size)
    rows[:, 0] = 1
    rows[n_vocab:, 0] = 9
    return rows.astype(np.float16)
