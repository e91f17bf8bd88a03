"""Wide models of random weights, for timing kernels: no cache holds them."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from pipeinfer_cli import abi
from small_models import weights

FILE_TYPES = {  # llama_ftype; pure, without the mixtures that some of them stand for
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q4_K": 15,
    "Q5_K": 17,
    "Q6_K": 18,
    "BF16": 32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a llama; rows of K-quants are multiples of 256."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int
    n_head: int
    n_head_kv: int
    dtype: type = np.float32

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


# 140 million weights: more than a cache holds, as any type
WIDE = Shape(
    n_layer=3, n_embd=2048, n_ff=5632, n_vocab=2048, n_head=32, n_head_kv=8, dtype=np.float16
)


def random_llama(path: Path, shape: Shape) -> Path:
    """Writes a llama with random weights and no vocabulary: ids only."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_block_count(shape.n_layer)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("no_vocab")
    for name, size in tensor_shapes(shape).items():
        values = weights(name, size)
        writer.add_tensor(name, values if len(size) == 1 else values.astype(shape.dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name to shape, rows first."""
    n_embd, n_ff, n_kv = shape.n_embd, shape.n_ff, shape.head_dim * shape.n_head_kv
    layer = {
        "attn_norm": (n_embd,),
        "attn_q": (n_embd, n_embd),
        "attn_k": (n_kv, n_embd),
        "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_embd),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    ends = {
        "token_embd.weight": (shape.n_vocab, n_embd),
        "output.weight": (shape.n_vocab, n_embd),
        "output_norm.weight": (n_embd,),
    }
    layers = {
        f"blk.{i}.{name}.weight": size for i in range(shape.n_layer) for name, size in layer.items()
    }
    return {**ends, **layers}


def convert(source: Path, folder: Path, file_type: str) -> Path:
    """Writes source again with all matrices of one type (a key of FILE_TYPES)."""
    os.environ.setdefault("LLAMA_CPP_LIB_PATH", str(abi.lib_dir()))
    import llama_cpp.llama_cpp as llama

    target = folder / f"{source.stem}-{file_type}.gguf"
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.pure = True
    params.allow_requantize = True
    params.nthread = 2
    status = llama.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(params)
    )
    assert status == 0, f"{source} as {file_type}"
    return target
