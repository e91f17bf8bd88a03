"""LoRA adapters with random weights for a GGUF, as convert_lora_to_gguf.py writes them."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

from random_gguf import write

RANK = 6  # not a multiple of what a vector holds
ALPHA = 9.0
OF_LAYER = r"attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps|_shexp)?"
MATRICES = rf"blk\.\d+\.({OF_LAYER})\.weight|output\.weight"
Type = gguf.GGMLQuantizationType


def write_adapter(
    path: Path,
    base: Path,
    *,
    names: str = MATRICES,
    kind: Type = Type.F32,
    rank: int = RANK,
    alpha: float = ALPHA,
    seed: int = 0,
    arch: str | None = None,
) -> Path:
    """For the tensors of `base` whose names match; strong enough to change a text."""
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(path, arch or reader.fields["general.architecture"].contents())
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for tensor in reader.tensors:
        if re.fullmatch(names, tensor.name):
            for suffix, shape in shapes(tensor.name, [int(n) for n in tensor.shape], rank).items():
                add(writer, f"{tensor.name}.{suffix}", shape, kind, seed)
    write(writer)
    return path


def shapes(name: str, base: list[int], rank: int) -> dict[str, tuple[int, ...]]:
    """Rows first, as numpy has them; `base` has the contiguous dimension first."""
    n_in, n_out, *more = base
    if name == "token_embd.weight":
        return {"lora_a": (n_out, rank), "lora_b": (n_in, rank)}
    return {"lora_a": (*more, rank, n_in), "lora_b": (*more, n_out, rank)}


def add(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: Type, seed: int) -> None:
    random = np.random.default_rng([seed, *name.encode()])
    values = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    if kind is not Type.F32 and shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values)
