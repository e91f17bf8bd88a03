"""Drafts of any quality: a model whose weights have noise."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from random_gguf import copy_fields, write

SEED = 1


def with_noise(source: Path, target: Path, share: float) -> Path:
    """Writes an F32 model again, with normal noise on the matrices of its layers.

    Its standard deviation is a share of each matrix's own.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    copy_fields(reader, writer)
    random = np.random.default_rng(SEED)
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name.startswith("blk.") and data.ndim > 1:
            noise = random.standard_normal(data.shape, dtype=np.float32)
            data = data + noise * np.float32(share * data.std())
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    write(writer)
    return target
