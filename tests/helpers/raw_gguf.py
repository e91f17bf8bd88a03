"""GGUFs byte by byte: also those that no writer would write. Tiny llamas to begin with."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from random_gguf import Shape, tensor_shapes, weights

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?"}
FORMATS |= {UINT64: "Q", 11: "q", 12: "d"}
F32 = 0
ALIGNMENT = 32
INT32_MAX = 2**31 - 1
SHAPE = Shape(n_layer=2, n_embd=32, n_ff=64, n_vocab=0, n_head=2, n_head_kv=1, n_ctx=256)
TOKENS, TYPES = b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type"
MERGES = b"tokenizer.ggml.merges"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

Value = tuple[Any, ...]  # (type, value), or (ARRAY, type of the elements, elements)
Fields = dict[bytes, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTensor:
    """One tensor, as the header describes it, and its data."""

    shape: tuple[int, ...]  # as in the file: the contiguous dimension first
    data: bytes
    type_id: int = F32
    offset: int | None = None  # None: after the one before


@dataclass(frozen=True, slots=True, kw_only=True)
class RawGguf:
    """What is in a file. Names are bytes; the same name may come twice, in a list of pairs."""

    fields: Fields
    tensors: dict[bytes, RawTensor]
    version: int = 3
    alignment: int = ALIGNMENT
    more_fields: list[tuple[bytes, Value]] = field(default_factory=list)
    more_tensors: list[tuple[bytes, RawTensor]] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The whole file."""
        fields = [*self.fields.items(), *self.more_fields]
        tensors = [*self.tensors.items(), *self.more_tensors]
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(tensors), len(fields))
        head += b"".join(_text(name) + _value(value) for name, value in fields)
        data = b""
        for name, each in tensors:
            at = len(data) if each.offset is None else each.offset
            head += _text(name) + struct.pack("<I", len(each.shape))
            head += struct.pack(f"<{len(each.shape)}Q", *each.shape)
            head += struct.pack("<IQ", each.type_id, at)
            data += _padded(each.data, self.alignment)
        return _padded(head, self.alignment) + data

    def write(self, path: Path) -> Path:
        """Writes the file."""
        path.write_bytes(self.to_bytes())
        return path

    def having(self, **fields: Value) -> RawGguf:
        """The same with these fields; a name's `__` is a dot. A value of () removes one."""
        new = {name.replace("__", ".").encode(): value for name, value in fields.items()}
        kept = {name: value for name, value in {**self.fields, **new}.items() if value}
        return replace(self, fields=kept)

    def with_tensor(self, name: str, tensor: RawTensor | None) -> RawGguf:
        """The same with this tensor, or without."""
        kept = {each: old for each, old in self.tensors.items() if each != name.encode()}
        return replace(self, tensors=kept | ({name.encode(): tensor} if tensor else {}))


def text(value: str | bytes) -> Value:
    return (STRING, value)


def texts(values: list[str | bytes]) -> Value:
    return (ARRAY, STRING, values)


def number(value: int) -> Value:
    return (UINT32, value)


def tensor(values: npt.NDArray[np.float32]) -> RawTensor:
    return RawTensor(shape=values.shape[::-1], data=values.tobytes())


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    kind, *rest = value
    if kind == ARRAY:
        element, elements = rest
        data = b"".join(_scalar(element, each) for each in elements)
        return struct.pack("<IIQ", ARRAY, element, len(elements)) + data
    return struct.pack("<I", kind) + _scalar(kind, rest[0])


def _scalar(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(f"<{FORMATS[kind]}", value)


# Vocabularies and a model around them.


def byte_characters() -> list[str]:
    """How byte-level BPE spells each byte, as GPT-2 does."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable}
    spelled |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [spelled[byte] for byte in range(256)]


def bpe_vocab(pre: str | None = "gpt-2") -> Fields:
    """Bytes, a few merges, and control tokens."""
    words = ["he", "ll", "hell", "hello", "aa", "aaaa"]
    merges = ["h e", "l l", "he ll", "hell o", "a a", "aa aa"]
    control = ["<|end|>", "<|user|>", "<|pad|>"]
    tokens: list[str | bytes] = [*byte_characters(), *words, *control]
    kinds = [NORMAL] * (len(tokens) - len(control)) + [CONTROL] * len(control)
    fields: Fields = {
        b"tokenizer.ggml.model": text("gpt2"),
        TOKENS: texts(tokens),
        TYPES: (ARRAY, INT32, kinds),
        MERGES: texts([*merges]),
        b"tokenizer.ggml.bos_token_id": number(len(tokens) - 3),
        b"tokenizer.ggml.eos_token_id": number(len(tokens) - 3),
    }
    return fields | ({b"tokenizer.ggml.pre": text(pre)} if pre is not None else {})


def spm_vocab(model: str = "llama") -> Fields:
    """As of Llama 2: bytes and words with scores."""
    special = ["<unk>", "<s>", "</s>"]
    data = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["\N{LOWER ONE EIGHTH BLOCK}", "\N{LOWER ONE EIGHTH BLOCK}hello", "h", "e", "l", "o"]
    tokens: list[str | bytes] = [*special, *data, *words]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(words)]
    return {
        b"tokenizer.ggml.model": text(model),
        TOKENS: texts(tokens),
        b"tokenizer.ggml.scores": (ARRAY, FLOAT32, [-float(i) for i in range(len(tokens))]),
        TYPES: (ARRAY, INT32, kinds),
        b"tokenizer.ggml.bos_token_id": number(1),
        b"tokenizer.ggml.eos_token_id": number(2),
        b"tokenizer.ggml.unknown_token_id": number(0),
    }


N_BPE = len(bpe_vocab()[TOKENS][2])


def model(vocab: Fields, arch: str = "llama", shape: Shape = SHAPE) -> RawGguf:
    """A llama of two layers with this vocabulary."""
    n_vocab = len(vocab[TOKENS][2])
    shape = replace(shape, n_vocab=n_vocab)
    sizes = {
        "context_length": number(shape.n_ctx),
        "block_count": number(shape.n_layer),
        "embedding_length": number(shape.n_embd),
        "feed_forward_length": number(shape.n_ff),
        "attention.head_count": number(shape.n_head),
        "attention.head_count_kv": number(shape.n_head_kv),
        "attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "rope.dimension_count": number(shape.head_dim),
    }
    fields = {b"general.architecture": text(arch)}
    fields |= {f"{arch}.{key}".encode(): value for key, value in sizes.items()}
    tensors = {
        name.encode(): tensor(weights(name, size)) for name, size in tensor_shapes(shape).items()
    }
    return RawGguf(fields=fields | vocab, tensors=tensors)


# Parts of a corpus: names, and what is written.
Make = Callable[[], bytes]
Cases = Iterator[tuple[str, RawGguf | Make]]


def bpe(**fields: Value) -> RawGguf:
    """A llama with a byte-level vocabulary, and these fields."""
    return model(bpe_vocab()).having(**fields)


def spm(**fields: Value) -> RawGguf:
    """A llama with a vocabulary as Llama 2's, and these fields."""
    return model(spm_vocab()).having(**fields)
