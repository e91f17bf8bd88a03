"""A model whose compute costs next to nothing: stages of emulated clusters, many on few cores.

    python tests/bench/tiny.py MODEL.gguf OUT.gguf [layers]

A llama with the vocabulary of MODEL and random weights. It writes nonsense, at the full price of
everything but compute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_FF, N_HEAD = 64, 64, 2
N_LAYER = 32


def main(source: Path, target: Path, n_layer: int) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    writer.add_context_length(8192)
    writer.add_block_count(n_layer)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_vocab_size(n_vocab)
    random = np.random.default_rng(1)
    for name, shape in shapes(n_layer, n_vocab).items():
        if name.endswith("norm.weight"):
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            values = random.standard_normal(shape) / np.sqrt(shape[-1])
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def shapes(n_layer: int, n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Name to shape, rows first. The output head is the token embedding."""
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
    layers = {f"blk.{i}.{name}.weight": layer[name] for i in range(n_layer) for name in layer}
    return {"token_embd.weight": (n_vocab, N_EMBD), "output_norm.weight": (N_EMBD,), **layers}


if __name__ == "__main__":
    n_layer = int(sys.argv[3]) if len(sys.argv) > 3 else N_LAYER
    main(Path(sys.argv[1]), Path(sys.argv[2]), n_layer)
