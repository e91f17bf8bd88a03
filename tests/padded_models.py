"""Small models with another's vocabulary, and a few tokens more that they always prefer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from small_models import weights, write

N_EMBD, N_FF, N_HEAD, N_LAYER = 64, 64, 2, 2


def tiny_llama(source: Path, path: Path, *, n_more: int = 0) -> Path:
    """Writes a llama with random weights and the vocabulary of `source`, padded with n_more.

    Padding tokens have the type that converters give them: unused.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    n_vocab = len(tokens)
    more = {
        "tokenizer.ggml.tokens": [f"[PAD{n_vocab + i}]" for i in range(n_more)],
        "tokenizer.ggml.token_type": [int(gguf.TokenType.UNUSED)] * n_more,
    }
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            value = field.contents()
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            if field.name in more:
                value = value + more[field.name]
            writer.add_key_value(field.name, value, field.types[0], sub_type=element)
    writer.add_context_length(2048)
    writer.add_block_count(N_LAYER)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(n_vocab + n_more)
    for name, shape in _shapes().items():
        writer.add_tensor(name, weights(name, shape) * (1 if len(shape) == 1 else 0.1))
    writer.add_tensor("token_embd.weight", _embeddings(n_vocab, n_more))
    write(writer)
    return path


def _embeddings(n_vocab: int, n_more: int) -> np.ndarray:
    """Rows that all lean to one side, along which those of the padding go furthest."""
    rows = weights("token_embd.weight", (n_vocab + n_more, N_EMBD))
    rows[:, 0] = 1
    rows[n_vocab:, 0] = 9
    return rows.astype(np.float16)


def _shapes() -> dict[str, tuple[int, ...]]:
    layer = {
        "attn_norm": (N_EMBD,),
        "attn_q": (N_EMBD, N_EMBD),
        "attn_k": (N_EMBD, N_EMBD),
        "attn_v": (N_EMBD, N_EMBD),
        "attn_output": (N_EMBD, N_EMBD),
        "ffn_norm": (N_EMBD,),
        "ffn_gate": (N_FF, N_EMBD),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
    }
    layers = {f"blk.{i}.{name}.weight": layer[name] for i in range(N_LAYER) for name in layer}
    return {"output_norm.weight": (N_EMBD,), **layers}
