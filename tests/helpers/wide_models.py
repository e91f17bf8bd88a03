"""Wide models of random weights, for timing kernels: no cache holds them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

from pipeinfer_cli.engine import abi
from random_gguf import Shape, add_tensors, begin, tensor_shapes, write

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


# 140 million weights: more than a cache holds, as any type
WIDE = Shape(n_layer=3, n_embd=2048, n_ff=5632, n_vocab=2048, n_head=32, n_head_kv=8)


def random_llama(path: Path, shape: Shape) -> Path:
    """Writes a llama with random weights (F16) and no vocabulary: ids only."""
    writer = begin(path, "llama", shape)
    writer.add_tokenizer_model("no_vocab")
    writer.add_rope_dimension_count(shape.head_dim)
    add_tensors(writer, tensor_shapes(shape), np.float16)
    write(writer)
    return path


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
