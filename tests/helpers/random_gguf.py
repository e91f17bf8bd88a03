"""GGUF files of random weights, of any size: what models of tests and benchmarks are made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a llama; rows of K-quants are multiples of 256."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int
    n_head: int
    n_head_kv: int
    n_ctx: int = 2048

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def begin(path: Path, arch: str, shape: Shape) -> gguf.GGUFWriter:
    """A writer that has the sizes; a vocabulary and what the architecture wants is to be added."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(shape.n_ctx)
    writer.add_block_count(shape.n_layer)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    return writer


def tensor_shapes(shape: Shape, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Name to shape of a llama's tensors, rows first; tied: the token embedding is the head."""
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
    ends: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (shape.n_vocab, n_embd),
        "output.weight": (shape.n_vocab, n_embd),
        "output_norm.weight": (n_embd,),
    }
    if tied:
        del ends["output.weight"]
    layers = {
        f"blk.{i}.{name}.weight": size for i in range(shape.n_layer) for name, size in layer.items()
    }
    return {**ends, **layers}


def weights(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Ones for a norm; else normal ones, of which a row keeps the scale of its input."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    random = np.random.default_rng(list(name.encode()))
    scaled: npt.NDArray[np.float64] = random.standard_normal(shape) / np.sqrt(shape[-1])
    return scaled.astype(np.float32)


def add_tensors(
    writer: gguf.GGUFWriter, shapes: dict[str, tuple[int, ...]], dtype: type = np.float32
) -> None:
    """Random ones of these shapes; matrices as `dtype`, norms as float32."""
    for name, shape in shapes.items():
        values = weights(name, shape)
        writer.add_tensor(name, values if len(shape) == 1 else values.astype(dtype))


def copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, prefix: str = "") -> None:
    """Fields whose names begin with `prefix`; not those that the writer makes itself."""
    for field in reader.fields.values():
        if field.name.startswith(prefix) and not is_writers_own(field):
            copy_field(field, writer, field.contents())


def is_writers_own(field: gguf.ReaderField) -> bool:
    """Whether every writer makes this field itself."""
    return field.name.startswith("GGUF.") or field.name == "general.architecture"


def copy_field(field: gguf.ReaderField, writer: gguf.GGUFWriter, value: Any) -> None:
    """The field with this value."""
    element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, value, field.types[0], sub_type=element)


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
