"""A corpus of odd GGUFs: what files state that no converter writes, or that llama.cpp asserts.

    python tests/helpers/odd_ggufs.py [NAME ...]

Each is taken as the target of `pipeinfer generate`, and some as the draft, in a process of its own,
which must end with exit code 0, or with one line and exit code 2. Prints what came of each.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raw_gguf import (
    ARRAY,
    BOOL,
    BYTE,
    CONTROL,
    FLOAT32,
    INT32,
    MERGES,
    N_BPE,
    NORMAL,
    TOKENS,
    TYPES,
    UINT64,
    UNUSED,
    Fields,
    RawGguf,
    RawTensor,
    bpe_vocab,
    model,
    number,
    spm_vocab,
    tensor,
    text,
    texts,
)

CASE_S = 20
DRAFT_EVERY = 4  # files are tried as drafts, too
MEMORY_BYTES = 6 << 30
HUGE = 2**31 - 1

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

Make = Callable[[], bytes]


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


Cases = Iterator[tuple[str, RawGguf | Make]]


def bpe(**fields) -> RawGguf:
    return model(bpe_vocab()).having(**fields)


def spm(**fields) -> RawGguf:
    return model(spm_vocab()).having(**fields)


def changed(vocab: Fields, key: bytes, at: int, value) -> Fields:
    """The vocabulary with one element of an array changed."""
    *kind, elements = vocab[key]
    elements = [*elements]
    elements[at] = value
    return {**vocab, key: (*kind, elements)}


def vocabularies() -> Cases:
    for name, vocab in (("bpe", bpe_vocab()), ("spm", spm_vocab())):
        tokens = vocab[TOKENS][2]
        yield f"{name}-sound", model(vocab)
        yield f"{name}-equal-tokens", model(changed(vocab, TOKENS, -2, tokens[-1]))
        two_empty = changed(changed(vocab, TOKENS, -4, ""), TOKENS, -5, "")
        yield f"{name}-empty-tokens", model(two_empty)
        yield f"{name}-all-empty", model({**vocab, TOKENS: texts([""] * len(tokens))})
        yield f"{name}-token-with-nul", model(changed(vocab, TOKENS, -4, b"a\0b"))
        yield f"{name}-token-not-utf8", model(changed(vocab, TOKENS, -4, b"\xff\xfe\xc3"))
        yield f"{name}-long-token", model(changed(vocab, TOKENS, -4, "ab" * 50_000))
        yield f"{name}-token-of-controls", model(changed(vocab, TOKENS, -4, b"\x1b[31m\n\r\x07"))
        yield (
            f"{name}-numbers-for-tokens",
            model(vocab).having(tokenizer__ggml__tokens=(ARRAY, INT32, list(range(len(tokens))))),
        )
        yield f"{name}-text-for-tokens", model(vocab).having(tokenizer__ggml__tokens=text("abc"))
        yield f"{name}-no-list", model(vocab).having(tokenizer__ggml__tokens=())
        yield f"{name}-empty-list", model(vocab).having(tokenizer__ggml__tokens=texts([]))
        yield (
            f"{name}-fewer-than-rows",
            model(vocab).having(tokenizer__ggml__tokens=texts(tokens[:-3])),
        )
        yield (
            f"{name}-more-than-rows",
            model(vocab).having(tokenizer__ggml__tokens=texts([*tokens, "x1", "x2"])),
        )
        yield (
            f"{name}-types-too-short",
            model(vocab).having(tokenizer__ggml__token_type=(ARRAY, INT32, [NORMAL] * 3)),
        )
        yield (
            f"{name}-types-as-texts",
            model(vocab).having(tokenizer__ggml__token_type=texts(["a"] * len(tokens))),
        )
        for kind, value in (
            ("unknown", 77),
            ("control", CONTROL),
            ("byte", BYTE),
            ("unused", UNUSED),
        ):
            yield (
                f"{name}-types-{kind}",
                model(vocab).having(
                    tokenizer__ggml__token_type=(ARRAY, INT32, [value] * len(tokens))
                ),
            )
        yield f"{name}-no-types", model(vocab).having(tokenizer__ggml__token_type=())
        yield f"{name}-vocab-size-says-another", model(vocab).having(llama__vocab_size=number(7))
    yield "one-token", one_token
    yield "bpe-byte-token", model(changed(bpe_vocab(), TYPES, 65, BYTE))
    yield "spm-short-byte-token", model(changed(spm_vocab(), TOKENS, 40, "<0"))
    yield "spm-odd-byte-token", model(changed(spm_vocab(), TOKENS, 40, "<0xZZ>"))
    yield "spm-no-bytes", model(changed(spm_vocab(), TOKENS, 3 + ord("q"), "no q"))
    yield "spm-no-newline", model(changed(spm_vocab(), TOKENS, 3 + 10, "no newline"))
    yield "spm-no-scores", spm(tokenizer__ggml__scores=())
    yield "spm-scores-too-short", spm(tokenizer__ggml__scores=(ARRAY, FLOAT32, [1.0]))
    yield "spm-scores-as-doubles", spm(tokenizer__ggml__scores=(ARRAY, 12, [1.0] * 265))
    yield "spm-scores-nan", spm(tokenizer__ggml__scores=(ARRAY, FLOAT32, [math.nan] * 265))
    yield "no-merges", bpe(tokenizer__ggml__merges=())
    yield "empty-merges", bpe(tokenizer__ggml__merges=texts([]))
    yield "merges-as-numbers", bpe(tokenizer__ggml__merges=(ARRAY, INT32, [1, 2]))
    yield "merges-without-space", bpe(tokenizer__ggml__merges=texts(["he", "", " ", "h ", "a b c"]))
    yield "merges-not-in-vocabulary", bpe(tokenizer__ggml__merges=texts(["h e", "he l", "hel l"]))
    yield "merges-twice", bpe(tokenizer__ggml__merges=texts(["h e"] * 3))


def one_token() -> bytes:
    vocab = {**bpe_vocab(), TOKENS: texts(["a"]), TYPES: (ARRAY, INT32, [1]), MERGES: texts([])}
    return model(vocab).to_bytes()


def tokenizers() -> Cases:
    for name in (
        "nonsense",
        "",
        "none",
        "no_vocab",
        "bert",
        "t5",
        "rwkv",
        "plamo2",
        "hybriddna",
        "whitespace",
    ):
        yield f"bpe-as-{name or 'empty'}", bpe(tokenizer__ggml__model=text(name))
        yield f"spm-as-{name or 'empty'}", spm(tokenizer__ggml__model=text(name))
    yield "no-model", bpe(tokenizer__ggml__model=())
    yield "model-as-number", bpe(tokenizer__ggml__model=number(3))
    for name in ("gpt-4o", "tekken", "deepseek-v3", "kimi-k2", "gemma4", "whitespace", "superbpe"):
        yield f"pre-{name}", model(bpe_vocab(name))
    yield "no-pre", model(bpe_vocab(None))
    yield "pre-unknown", model(bpe_vocab("of another time"))
    yield "pre-as-number", bpe(tokenizer__ggml__pre=number(1))
    t5 = {**spm_vocab("t5")}
    for name, value in (
        ("short", (ARRAY, 1, [1, 2])),
        ("size-beyond-end", (ARRAY, 0, [255, 255, 0, 0, 1, 2, 3, 4])),
        ("of-words", texts(["a"])),
        ("random", (ARRAY, 0, [16, 0, 0, 0, *([200, 7, 31, 128] * 4), 65, 0, 200, 201])),
        ("as-text", text("abc")),
    ):
        yield f"t5-charsmap-{name}", model(t5).having(tokenizer__ggml__precompiled_charsmap=value)
    for key in ("add_space_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        yield f"{key}-true", spm(**{f"tokenizer__ggml__{key}": (BOOL, True)})
        yield f"{key}-as-text", spm(**{f"tokenizer__ggml__{key}": text("yes")})
    yield "suppress-tokens-as-text", bpe(tokenizer__ggml__suppress_tokens=text("a"))
    yield "suppress-tokens-beyond", bpe(tokenizer__ggml__suppress_tokens=(ARRAY, INT32, [-1, HUGE]))
    yield "token-type-count-huge", bpe(tokenizer__ggml__token_type_count=number(HUGE))


def special_tokens() -> Cases:
    names = (
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "seperator",
        "padding",
        "mask",
        "fim_pre",
        "cls",
    )
    for name in names:
        key = f"tokenizer__ggml__{name}_token_id"
        yield f"{name}-beyond", bpe(**{key: number(N_BPE + 5)})
        yield f"{name}-as-text", bpe(**{key: text("<s>")})
        yield f"{name}-negative", spm(**{key: (INT32, -7)})
    for flag in ("add_bos_token", "add_eos_token", "add_sep_token"):
        key = f"tokenizer__ggml__{flag}"
        nobody = {"tokenizer__ggml__bos_token_id": (), "tokenizer__ggml__eos_token_id": ()}
        yield (
            f"{flag}-without-one",
            model(
                {**bpe_vocab(), TOKENS: texts([*"abcdefgh lo"]), TYPES: (ARRAY, INT32, [1] * 11)}
            ).having(**{key: (BOOL, True), **nobody}),
        )
        yield f"{flag}-spm", spm(**{key: (BOOL, True)})
        yield f"{flag}-as-number", bpe(**{key: number(1)})
    yield (
        "all-of-them-one",
        bpe(**{f"tokenizer__ggml__{name}_token_id": number(3) for name in names}),
    )
    yield "eog-ids-beyond", bpe(tokenizer__ggml__eog_token_ids=(ARRAY, INT32, [-1, HUGE]))
    yield "eog-ids-as-text", bpe(tokenizer__ggml__eog_token_ids=text("a"))


def templates() -> Cases:
    for name, value in (
        ("empty", text("")),
        ("blank", text(" \n")),
        ("not-utf8", text(b"{{ '\xff' }}{{ messages[0].content }}")),
        ("not-jinja", text("{% for")),
        ("as-number", number(1)),
        ("with-nul", text(b"{{ messages[0].content }}\0{{ nothing.at.all }}")),
        ("endless", text("{% for i in range(10**12) %}a{% endfor %}")),
        ("deep", text("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}")),
    ):
        yield name, bpe(tokenizer__chat_template=value)


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
        "context_length": (0, 1, HUGE, 2**32 - 1),
        "block_count": (0, 1, 3, 513, HUGE, 2**32 - 1),
        "embedding_length": (0, 1, 31, 33, 64, HUGE),
        "feed_forward_length": (0, 63, HUGE),
        "attention.head_count": (0, 1, 3, 32, 64, 10**6, HUGE),
        "attention.head_count_kv": (0, 2, 3, 10**6, HUGE),
        "attention.key_length": (0, 1, 7, 17, 32, 10**6, HUGE),
        "attention.value_length": (0, 1, 7, 17, 32, HUGE),
        "rope.dimension_count": (0, 1, 7, 18, 64, HUGE),
        "rope.scaling.original_context_length": (0, HUGE),
        "expert_count": (1, 4, 10**6, HUGE),
        "expert_used_count": (1, HUGE),
        "expert_group_count": (3,),
        "nextn_predict_layers": (1, 2, 3, HUGE),
        "leading_dense_block_count": (HUGE,),
        "attention.sliding_window": (0, 1, HUGE),
        "pooling_type": (1, 99),
        "vocab_size": (0, HUGE),
    }
    for key, values in wrong.items():
        name = f"llama__{key.replace('.', '__')}"
        for value in values:
            yield f"{key}-{value}", bpe(**{name: number(value)})
        yield f"{key}-as-text", bpe(**{name: text("1")})
        yield f"{key}-per-layer", bpe(**{name: (ARRAY, INT32, [3, 1])})
        yield f"{key}-per-five-layers", bpe(**{name: (ARRAY, INT32, [1] * 5)})
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
    for name in ("token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_q.weight",
                 "blk.1.ffn_down.weight"):  # fmt: skip
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


# Taking them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a process ended."""

    code: int  # negative: minus the signal that killed it
    said: str  # on stderr

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing is."""
        errors = [
            line for line in self.said.splitlines() if not line.startswith("pipeinfer: note: ")
        ]
        if self.code == 0:
            return "" if not errors else f"exit code 0, but {errors[0]!r}"
        if self.code != 2:
            return f"exit code {self.code}: {self.said[-300:]!r}"
        if len(errors) != 1 or not errors[0].startswith("pipeinfer: error: "):
            return f"{len(errors)} lines: {self.said[-300:]!r}"
        is_bug = errors[0].startswith("pipeinfer: error: unexpected ")
        return f"not for people: {errors[0]!r}" if is_bug else ""


def run(arguments: list[str], folder: Path) -> Outcome:
    """`pipeinfer` in a fork of this process."""
    said = folder / "stderr"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _child(arguments, said)
        os._exit(97)
    deadline_s = time.monotonic() + CASE_S
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline_s:
        time.sleep(0.002)
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return Outcome(code=-signal.SIGKILL, said=f"still running after {CASE_S} s")
    code = os.waitstatus_to_exitcode(ended[1])
    return Outcome(code=code, said=said.read_text(errors="replace"))


def _child(arguments: list[str], said: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from pipeinfer_cli.cli.main import main as command

    code = command(arguments)
    sys.stderr.flush()
    os._exit(code)


def take(names: list[str]) -> dict[str, dict[str, Outcome]]:
    """What came of each file, as the target and as the draft."""
    from pipeinfer_cli.commands import generate, start  # noqa: F401 (once, before the forks)
    from pipeinfer_cli.engine import abi

    abi.load()
    found = {}
    files = corpus()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        sound = model(bpe_vocab()).write(folder / "sound.gguf")
        for number, name in enumerate(names):
            path = folder / "odd.gguf"
            path.write_bytes(files[name]())
            common = ["--ranks", "1", "-n", "3", "-c", "64", "-t", "1"]
            generate_it = ["generate", "-m", str(path), *common, "hello q\n<|user|>"]
            if name.startswith("template"):
                generate_it.append("--chat")
            draft_it = ["generate", "-m", str(sound), "-md", str(path), *common, "hello"]
            draft_it += ["--strategy", "pipeinfer"]
            found[name] = {"target": run(generate_it, folder)}
            if number % DRAFT_EVERY == 0:
                found[name]["draft"] = run(draft_it, folder)
    return found


def main() -> None:
    for name, outcomes in take(sys.argv[1:] or list(corpus())).items():
        for role, outcome in outcomes.items():
            fields = {"code": outcome.code, "said": outcome.said, "fault": outcome.fault}
            print(json.dumps({"name": name, "role": role, **fields}), flush=True)


if __name__ == "__main__":
    main()
