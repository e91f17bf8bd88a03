"""GGUF files that tests make for themselves: a small random llama, and models of other types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf

from pipeinfer_cli.models.derive import DeriveConfig, derive
from random_gguf import Shape, add_tensors, begin, copy_fields, tensor_shapes, write

SHAPE = Shape(n_layer=3, n_embd=512, n_ff=1024, n_vocab=384, n_head=8, n_head_kv=4)
# For devices without hardware, which take 0.2 s for a run of the other.
TINY = replace(SHAPE, n_embd=256, n_ff=256, n_head=4, n_head_kv=2)
N_LAYER, N_VOCAB = SHAPE.n_layer, SHAPE.n_vocab
N_WINDOW = 12

FILE_TYPES = (
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q8_0",
    "Q2_K",
    "Q4_K_M",
    "Q5_K_M",
    "Q6_K",
)


def random_llama(path: Path, shape: Shape = SHAPE) -> Path:
    """Writes a llama of N_LAYER layers with random weights (F32) and no vocabulary: ids only."""
    writer = begin(path, "llama", shape)
    writer.add_tokenizer_model("no_vocab")
    writer.add_rope_dimension_count(shape.head_dim)
    return finish(writer, path, tensor_shapes(shape))


def random_windowed(path: Path, shape: Shape = SHAPE) -> Path:
    """Writes a gemma3 like `random_llama`: its layers see N_WINDOW positions, but one sees all."""
    writer = begin(path, "gemma3", shape)
    writer.add_tokenizer_model("no_vocab")
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_sliding_window(N_WINDOW)
    writer.add_sliding_window_pattern([True, False, True])
    norms = {"post_attention_norm": shape.n_embd, "post_ffw_norm": shape.n_embd}
    norms |= {"attn_q_norm": shape.head_dim, "attn_k_norm": shape.head_dim}
    more = {f"blk.{i}.{name}.weight": (n,) for i in range(N_LAYER) for name, n in norms.items()}
    return finish(writer, path, tensor_shapes(shape) | more)


def talking_llama(path: Path, shape: Shape = SHAPE) -> Path:
    """Writes a llama like `random_llama` that has a vocabulary: bytes, and words of nonsense."""
    writer = begin(path, "llama", shape)
    writer.add_tokenizer_model("llama")
    writer.add_rope_dimension_count(shape.head_dim)
    special = ["<unk>", "<s>", "</s>"]
    data = [f"<0x{byte:02X}>" for byte in range(256)]
    n_words = N_VOCAB - len(special) - len(data)
    # none for a space, which becomes three tokens
    words = [f"\u2581{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(n_words)]
    kinds = gguf.TokenType
    writer.add_token_list([*special, *data, *words])
    writer.add_token_scores([0.0] * len(special + data) + [-float(i) for i in range(n_words)])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
        + [kinds.BYTE] * len(data)
        + [kinds.NORMAL] * n_words
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return finish(writer, path, tensor_shapes(shape))


def finish(writer: gguf.GGUFWriter, path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Writes the file, with random tensors of these shapes."""
    add_tensors(writer, shapes)
    write(writer)
    return path


def in_parts(source: Path, prefix: Path, n_parts: int) -> list[Path]:
    """Writes source again in several files, as llama.cpp's gguf-split does; returns their paths."""
    reader = gguf.GGUFReader(source)
    paths = [
        prefix.with_name(f"{prefix.name}-{part + 1:05}-of-{n_parts:05}.gguf")
        for part in range(n_parts)
    ]
    for part, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
        if part == 0:
            copy_fields(reader, writer)
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", n_parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        n_each = -(-len(reader.tensors) // n_parts)
        for tensor in reader.tensors[part * n_each : (part + 1) * n_each]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        write(writer)
    return paths


def convert(source: Path, folder: Path, file_type: str) -> Path:
    """Writes source again as another type: a key of FILE_TYPES."""
    target = folder / f"{source.stem}-{file_type}.gguf"
    target.unlink(missing_ok=True)
    return derive(DeriveConfig(model=source, target=target, file_type=file_type, n_threads=2))


def without_layers(source: Path, target: Path, left_out: set[int]) -> Path:
    """Writes source again without some of its layers: a cheaper model of the same vocabulary."""
    return derive(DeriveConfig(model=source, target=target, left_out=tuple(sorted(left_out))))
