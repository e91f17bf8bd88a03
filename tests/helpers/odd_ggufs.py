"""A corpus of odd GGUFs: what files state that no converter writes, or that llama.cpp asserts.

take_ggufs.py tries them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from odd_vocabularies import special_tokens, templates, tokenizers, vocabularies
from raw_gguf import (
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    INT32_MAX,
    UINT64,
    Cases,
    Make,
    RawTensor,
    bpe,
    bpe_vocab,
    model,
    number,
    tensor,
    text,
)

# Every architecture that llama.cpp knows, each with the keys and tensors of a llama.
ARCHS = Path(__file__).with_name("arch_names.txt").read_text().split()

TENSOR_TYPES = {  # number, and bytes of an element; some are not for weights, two do not exist
    "i8": (24, 1),
    "i16": (25, 2),
    "i32": (26, 4),
    "i64": (27, 8),
    "f64": (28, 8),
    "bf16": (30, 2),
    "f16": (1, 2),
    "q4_0": (2, 18 / 32),
    "q8_0": (8, 34 / 32),
    "q8_1": (9, 36 / 32),
    "mxfp4": (39, 17 / 32),
    "removed": (4, 1),
    "unknown": (200, 1),
}


def corpus() -> dict[str, Make]:
    """All files, by name: `kind/case`."""
    found: dict[str, Make] = {}
    kinds = {
        "vocabulary": vocabularies,
        "tokenizer": tokenizers,
        "special": special_tokens,
        "template": templates,
        "header": headers,
        "sizes": sizes,
        "tensors": tensors,
        "bytes": broken_bytes,
        "arch": architectures,
    }
    for kind, cases in kinds.items():
        for name, make in cases():
            assert f"{kind}/{name}" not in found, name
            found[f"{kind}/{name}"] = make if callable(make) else make.to_bytes
    return found


def headers() -> Cases:
    yield "arch-missing", bpe(general__architecture=())
    yield "arch-as-number", bpe(general__architecture=number(1))
    for name, value in (
        ("empty", b""),
        ("unknown", b"foo"),
        ("not-utf8", b"ll\xe4ma"),
        ("long", b"llama" * 100),
        ("with-nul", b"llama\0x"),
        ("with-percent", b"%s%n"),
        ("with-newline", b"llama\nx"),
    ):
        yield f"arch-{name}", bpe(general__architecture=text(value))
    yield "name-in-latin-1", bpe(general__name=text(b"Mod\xe8le"))
    yield "key-in-latin-1", replace(bpe(), more_fields=[(b"general.mod\xe8le", number(1))])
    yield (
        "tensor-in-latin-1",
        replace(bpe(), more_tensors=[(b"mod\xe8le", tensor(np.ones(32, np.float32)))]),
    )
    yield "key-empty", replace(bpe(), more_fields=[(b"", number(1))])
    yield "key-long", replace(bpe(), more_fields=[(b"k" * 70_000, number(1))])
    yield "key-twice", replace(bpe(), more_fields=[(b"llama.block_count", number(1))])
    yield (
        "tensor-twice",
        replace(bpe(), more_tensors=[(b"output_norm.weight", tensor(np.ones(32, np.float32)))]),
    )
    yield (
        "tensor-name-long",
        replace(bpe(), more_tensors=[(b"n" * 300, tensor(np.ones(32, np.float32)))]),
    )
    yield "tensor-name-empty", replace(bpe(), more_tensors=[(b"", tensor(np.ones(32, np.float32)))])
    for version in (0, 1, 2, 4, 3 << 24, 2**32 - 1):
        yield f"version-{version}", replace(bpe(), version=version)
    for value in (0, 1, 3, 48, 64, 2**31, 2**32 - 1):
        good = value in (1, 64)
        yield (
            f"alignment-{value}",
            replace(bpe(general__alignment=number(value)), alignment=value if good else 32),
        )
    yield "alignment-as-text", bpe(general__alignment=text("32"))
    yield "alignment-as-u64", bpe(general__alignment=(UINT64, 32))
    yield "split-of-two", bpe(split__count=(2, 2), split__no=(2, 0))
    yield "split-second", bpe(split__count=(2, 2), split__no=(2, 1))
    yield "split-count-as-text", bpe(split__count=text("2"))
    yield "split-count-zero", bpe(split__count=(2, 0))
    yield "split-tensors-wrong", bpe(split__count=(2, 1), split__tensors__count=(INT32, 3))
    yield "file-type-unknown", bpe(general__file_type=number(9999))
    yield "file-type-as-text", bpe(general__file_type=text("Q4"))
    yield "quantization-version", bpe(general__quantization_version=number(77))
    yield "name-with-escapes", bpe(general__name=text("\x1b]0;x\x07\n\u202e"))
    yield "shard-without-split", bpe(pipeinfer__shard__stage=number(0))
    yield "adapter", bpe(general__type=text("adapter"))


def sizes() -> Cases:
    wrong = {
        "context_length": (0, 1, INT32_MAX, 2**32 - 1),
        "block_count": (0, 1, 3, 513, INT32_MAX, 2**32 - 1),
        "embedding_length": (0, 1, 31, 33, 64, INT32_MAX),
        "feed_forward_length": (0, 63, INT32_MAX),
        "attention.head_count": (0, 1, 3, 32, 64, 10**6, INT32_MAX),
        "attention.head_count_kv": (0, 2, 3, 10**6, INT32_MAX),
        "attention.key_length": (0, 1, 7, 17, 32, 10**6, INT32_MAX),
        "attention.value_length": (0, 1, 7, 17, 32, INT32_MAX),
        "rope.dimension_count": (0, 1, 7, 18, 64, INT32_MAX),
        "rope.scaling.original_context_length": (0, INT32_MAX),
        "expert_count": (1, 4, 10**6, INT32_MAX),
        "expert_used_count": (1, INT32_MAX),
        "expert_group_count": (3,),
        "nextn_predict_layers": (1, 2, 3, INT32_MAX),
        "leading_dense_block_count": (INT32_MAX,),
        "attention.sliding_window": (0, 1, INT32_MAX),
        "pooling_type": (1, 99),
        "vocab_size": (0, INT32_MAX),
    }
    for key, values in wrong.items():
        name = f"llama__{key.replace('.', '__')}"
        for value in values:
            yield f"{key}-{value}", bpe(**{name: number(value)})
        yield f"{key}-as-text", bpe(**{name: text("1")})
        yield f"{key}-per-layer", bpe(**{name: (ARRAY, INT32, [3, 1])})
        yield f"{key}-missing", bpe(**{name: ()})
    for key in ("rope.freq_base", "rope.scaling.factor", "attention.layer_norm_rms_epsilon",
                "attention.max_alibi_bias", "attention.clamp_kqv", "logit_scale", "attention.scale",
                "rope.scaling.attn_factor", "final_logit_softcapping"):  # fmt: skip
        name = f"llama__{key.replace('.', '__')}"
        for value in (0.0, -1.0, math.nan, math.inf):
            yield f"{key}-{value}", bpe(**{name: (FLOAT32, value)})
        yield f"{key}-as-number", bpe(**{name: number(1)})
    yield "rope-scaling-nonsense", bpe(llama__rope__scaling__type=text("nonsense"))
    for value in ("yarn", "linear", "longrope", "none"):
        yield (
            f"rope-scaling-{value}",
            bpe(
                llama__rope__scaling__type=text(value),
                llama__rope__scaling__factor=(FLOAT32, 4.0),
                llama__rope__scaling__original_context_length=number(0),
            ),
        )
    yield "not-causal", bpe(llama__attention__causal=(BOOL, False))
    yield (
        "experts-used-beyond",
        bpe(llama__expert_count=number(2), llama__expert_used_count=number(3)),
    )
    yield "no-sizes", replace(bpe(), fields={b"general.architecture": text("llama"), **bpe_vocab()})


def tensors() -> Cases:
    sound = bpe()
    for name in ("token_embd.weight", "output_norm.weight", "blk.1.ffn_down.weight"):
        old = sound.tensors[name.encode()]
        yield f"{name}-missing", sound.with_tensor(name, None)
        yield (
            f"{name}-transposed",
            sound.with_tensor(name, replace(old, shape=(*old.shape[::-1], 1))),
        )
        yield f"{name}-flat", sound.with_tensor(name, replace(old, shape=(math.prod(old.shape),)))
        yield f"{name}-no-dimension", sound.with_tensor(name, replace(old, shape=()))
        yield (
            f"{name}-dimension-0",
            sound.with_tensor(name, replace(old, shape=(*old.shape[:-1], 0))),
        )
        yield f"{name}-huge", sound.with_tensor(name, replace(old, shape=(2**62, 4)))
        yield f"{name}-overflow", sound.with_tensor(name, replace(old, shape=(2**32, 2**32)))
        n = math.prod(old.shape)
        for kind, (type_id, n_bytes) in TENSOR_TYPES.items():
            data = bytes(int(n * n_bytes))
            yield (
                f"{name}-{kind}",
                sound.with_tensor(name, replace(old, type_id=type_id, data=data)),
            )
    for name, value in (("nan", math.nan), ("inf", math.inf), ("huge", 3e38), ("zero", 0.0)):
        filled = {
            each: replace(old, data=np.full(len(old.data) // 4, value, np.float32).tobytes())
            for each, old in sound.tensors.items()
        }
        yield f"all-{name}", replace(sound, tensors=filled)
    yield "none", replace(sound, tensors={})
    yield "one-too-many", sound.with_tensor("blk.0.nothing.weight", tensor(np.ones(32, np.float32)))
    yield "of-layer-99", sound.with_tensor("blk.99.attn_q.weight", tensor(np.ones(32, np.float32)))
    yield (
        "of-layer-minus-1",
        sound.with_tensor("blk.-1.attn_q.weight", tensor(np.ones(32, np.float32))),
    )
    yield "rope-freqs-short", sound.with_tensor("rope_freqs.weight", tensor(np.ones(3, np.float32)))
    yield "rope-freqs-zero", sound.with_tensor("rope_freqs.weight", tensor(np.zeros(8, np.float32)))
    old = sound.tensors[b"output_norm.weight"]
    for offset in (1, 32, 2**40, 2**63):
        yield (
            f"offset-{offset}",
            sound.with_tensor("output_norm.weight", replace(old, offset=offset)),
        )
    yield "five-dimensions", sound.with_tensor("x", RawTensor(shape=(1,) * 5, data=b""))
    bias = RawTensor(shape=(3,), data=bytes(12))
    yield "bias-of-another-size", sound.with_tensor("blk.0.attn_q.bias", bias)
    yield (
        "scale-nan",
        sound.with_tensor("blk.0.attn_q.scale", tensor(np.full(1, np.nan, np.float32))),
    )


def broken_bytes() -> Cases:
    data = bpe().to_bytes()
    for share in (0.001, 0.01, 0.1, 0.5, 0.999):
        yield f"cut-at-{share}", lambda share=share: data[: int(len(data) * share)]
    yield "empty", lambda: b""
    yield "only-magic", lambda: b"GGUF"
    yield "zeros", lambda: bytes(4096)
    yield "text", lambda: b"# a README\n" * 30
    yield "big-endian", lambda: b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(100)
    for name, n_tensors, n_fields in (
        ("tensors", 2**63, 1),
        ("fields", 1, 2**63 - 1),
        ("none", 0, 0),
    ):
        yield (
            f"count-of-{name}",
            lambda t=n_tensors, f=n_fields: b"GGUF" + struct.pack("<IQQ", 3, t, f) + data[24:],
        )
    key = struct.pack("<Q", 1) + b"k"
    for name, value in (
        ("array-of-arrays", struct.pack("<IIQ", 9, 9, 1)),
        ("array-huge", struct.pack("<IIQ", 9, 0, 2**62)),
        ("texts-huge", struct.pack("<IIQ", 9, 8, 2**61)),
        ("text-huge", struct.pack("<IQ", 8, 2**63 - 1)),
        ("type-unknown", struct.pack("<I", 13)),
        ("bool-of-7", struct.pack("<IB", 7, 7)),
    ):
        yield (
            name,
            lambda value=value: b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + value + bytes(64),
        )
    yield "more-behind", lambda: data + bytes(10_000)


def architectures() -> Cases:
    for arch in ARCHS:
        yield arch, model(bpe_vocab(), arch)
