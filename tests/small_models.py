"""GGUF files that tests make for themselves: a small random llama, and models of other types."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from pipeinfer_cli.derive import DeriveConfig, derive

N_LAYER, N_EMBD, N_FF, N_VOCAB = 3, 512, 1024, 384  # rows of K-quants are multiples of 256
N_HEAD, N_HEAD_KV = 8, 4
HEAD_DIM = N_EMBD // N_HEAD
N_WINDOW = 12

FILE_TYPES = (
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q8_0",
    "Q4_K_M",
    "Q5_K_M",
    "Q6_K",
)


def random_llama(path: Path) -> Path:
    """Writes a llama of N_LAYER layers with random weights (F32) and no vocabulary: ids only."""
    writer = begin(path, "llama")
    writer.add_rope_dimension_count(HEAD_DIM)
    return finish(writer, path, tensor_shapes())


def random_windowed(path: Path) -> Path:
    """Writes a gemma3 like `random_llama`: its layers see N_WINDOW positions, but one sees all."""
    writer = begin(path, "gemma3")
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_sliding_window(N_WINDOW)
    writer.add_sliding_window_pattern([True, False, True])
    norms = {"post_attention_norm": N_EMBD, "post_ffw_norm": N_EMBD}
    norms |= {"attn_q_norm": HEAD_DIM, "attn_k_norm": HEAD_DIM}
    more = {f"blk.{i}.{name}.weight": (n,) for i in range(N_LAYER) for name, n in norms.items()}
    return finish(writer, path, tensor_shapes() | more)


def talking_llama(path: Path) -> Path:
    """Writes a llama like `random_llama` that has a vocabulary: bytes, and words of nonsense."""
    writer = begin(path, "llama", tokenizer="llama")
    writer.add_rope_dimension_count(HEAD_DIM)
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
    return finish(writer, path, tensor_shapes())


def begin(path: Path, arch: str, tokenizer: str = "no_vocab") -> gguf.GGUFWriter:
    """What they have in common."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(2048)
    writer.add_block_count(N_LAYER)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model(tokenizer)
    return writer


def finish(writer: gguf.GGUFWriter, path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Writes the file, with random tensors of these shapes."""
    for name, shape in shapes.items():
        writer.add_tensor(name, weights(name, shape))
    write(writer)
    return path


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Name to shape, rows first."""
    n_kv = HEAD_DIM * N_HEAD_KV
    layer = {
        "attn_norm": (N_EMBD,),
        "attn_q": (N_EMBD, N_EMBD),
        "attn_k": (n_kv, N_EMBD),
        "attn_v": (n_kv, N_EMBD),
        "attn_output": (N_EMBD, N_EMBD),
        "ffn_norm": (N_EMBD,),
        "ffn_gate": (N_FF, N_EMBD),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
    }
    ends = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
    }
    layers = {
        f"blk.{i}.{name}.weight": shape for i in range(N_LAYER) for name, shape in layer.items()
    }
    return {**ends, **layers}


def weights(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Ones for a norm; else normal ones, of which a row keeps the scale of its input."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    random = np.random.default_rng(list(name.encode()))
    return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


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


def copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        # the writer makes these itself
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(source: Path, folder: Path, file_type: str) -> Path:
    """Writes source again as another type: a key of FILE_TYPES."""
    target = folder / f"{source.stem}-{file_type}.gguf"
    target.unlink(missing_ok=True)
    return derive(DeriveConfig(model=source, target=target, file_type=file_type, n_threads=2))


def without_layers(source: Path, target: Path, left_out: set[int]) -> Path:
    """Writes source again without some of its layers: a cheaper model of the same vocabulary."""
    return derive(DeriveConfig(model=source, target=target, left_out=tuple(sorted(left_out))))
