"""A mixture of experts, where more tokens in a run touch more experts: verifying costs much.

    python benchmarks/mixture.py MODEL.gguf OUT.gguf

A llama with the vocabulary of MODEL and random weights, Q8_0: 6 layers of 64 experts, of which a
token uses 8. Its texts are nonsense; `bench --synth-acceptance` draws which drafts are right.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import gguf
from gguf.quants import quantize

from random_gguf import Shape, begin, copy_fields, tensor_shapes, weights, write

N_EXPERT, N_EXPERT_USED, N_FF = 64, 8, 512
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def main(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    shape = Shape(n_layer=6, n_embd=1024, n_ff=N_FF, n_vocab=n_vocab, n_head=16, n_head_kv=4)
    writer = begin(target, "llama", shape)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_expert_count(N_EXPERT)
    writer.add_expert_used_count(N_EXPERT_USED)
    copy_fields(reader, writer, "tokenizer.")
    for name, size in expert_shapes(shape).items():
        values = weights(name, size)
        if len(size) == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, Q8_0), raw_dtype=Q8_0)
    write(writer)


def expert_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name to shape of all tensors, rows first; with experts instead of feed-forward networks."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, size in tensor_shapes(shape, tied=True).items():
        if any(part in name for part in ("ffn_gate", "ffn_up", "ffn_down")):
            shapes[name.replace(".weight", "_exps.weight")] = (N_EXPERT, *size)
        else:
            shapes[name] = size
    routers = {
        f"blk.{i}.ffn_gate_inp.weight": (N_EXPERT, shape.n_embd) for i in range(shape.n_layer)
    }
    return {**shapes, **routers}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
