"""A model whose compute costs next to nothing: stages of emulated clusters, many on few cores.

    python benchmarks/tiny.py MODEL.gguf OUT.gguf [layers]

A llama with the vocabulary of MODEL and random weights. It writes nonsense, at the full price of
everything but compute.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import gguf
import numpy as np

from random_gguf import Shape, add_tensors, begin, copy_fields, tensor_shapes, write

N_LAYER = 32


def main(source: Path, target: Path, n_layer: int) -> None:
    reader = gguf.GGUFReader(source)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    shape = Shape(
        n_layer=n_layer, n_embd=64, n_ff=64, n_vocab=n_vocab, n_head=2, n_head_kv=2, n_ctx=8192
    )
    writer = begin(target, "llama", shape)
    writer.add_rope_dimension_count(shape.head_dim)
    copy_fields(reader, writer, "tokenizer.")
    add_tensors(writer, tensor_shapes(shape, tied=True), np.float16)
    write(writer)


if __name__ == "__main__":
    n_layer = int(sys.argv[3]) if len(sys.argv) > 3 else N_LAYER
    main(Path(sys.argv[1]), Path(sys.argv[2]), n_layer)
