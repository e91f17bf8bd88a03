"""The models of the benchmark, made once from SmolLM2 and kept in the build folder.

`deep`: SmolLM2 with 90 layers more that change nothing but the cost. `wide`: n_embd 2048, 10
layers, random weights, SmolLM2's vocabulary; no cache holds it. Rows of `deep` are not multiples
of 256, so that as Q4_K most of its matrices become Q5_0: llama.cpp's own choice.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import gguf
import numpy as np

from beside.process import run
from random_gguf import Shape, begin, copy_fields, tensor_shapes, weights, write

BUILD = Path(__file__).parents[2] / "build"
FOLDER = BUILD / "beside"
N_LAYER, N_ADDED = 30, 90
LEFT_OUT = "9,16,23"
DERIVED_TYPES = {"Q4_K": "Q4_K_S"}  # what `pipeinfer models derive` calls it, where that differs
TYPES = ("F16", "Q4_0", "Q4_K", "Q8_0")
DRAFTS = ("Q8_0", "Q4_1", "27-layers")
N_WIDE_LAYERS = 10
SPACE = "Ġ"  # how byte-level BPE spells it


def target(pipeinfer: str, name: str, file_type: str) -> Path:
    """The file of a target model, `deep` or `wide`, of one of TYPES; made if it is missing."""
    make_source = {"deep": _make_deep, "wide": _make_wide}[name]
    source = FOLDER / f"{name}-F16.gguf"
    if not source.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        make_source(pipeinfer, source)
    return source if file_type == "F16" else _derived(pipeinfer, source, file_type)


def small(pipeinfer: str, file_type: str) -> Path:
    """SmolLM2 with its own 30 layers."""
    source = smollm2(pipeinfer)
    return source if file_type == "Q4_1" else _derived(pipeinfer, source, file_type)


def draft(pipeinfer: str, name: str) -> Path:
    """One of DRAFTS, for `deep`."""
    if name != "27-layers":
        return small(pipeinfer, name)
    path = FOLDER / "smollm2-27-layers.gguf"
    if not path.exists():
        _derive(pipeinfer, smollm2(pipeinfer), path, "--without", LEFT_OUT)
    return path


@cache
def smollm2(pipeinfer: str) -> Path:
    """The published file, Q4_1; fetched if it is missing."""
    return Path(run([pipeinfer, "models", "pull", "smollm2"]).out.strip().splitlines()[-1])


def _derived(pipeinfer: str, source: Path, file_type: str) -> Path:
    stem = source.stem.removesuffix("-F16").partition("-")[0]
    path = FOLDER / f"{stem}-{file_type}.gguf"
    if not path.exists():
        _derive(pipeinfer, source, path, "--type", DERIVED_TYPES.get(file_type, file_type))
    return path


def _derive(pipeinfer: str, source: Path, path: Path, *options: str) -> None:
    run([pipeinfer, "models", "derive", str(source), *options, "-o", str(path)])


def _make_deep(pipeinfer: str, path: Path) -> None:
    """Adds layers whose two outputs are zero: they hand on what they get."""
    reader = gguf.GGUFReader(_derived(pipeinfer, smollm2(pipeinfer), "F16"))
    writer = gguf.GGUFWriter(path, "llama")
    copy_fields(reader, writer)
    writer.add_block_count(N_LAYER + N_ADDED)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    layer = [tensor for tensor in reader.tensors if tensor.name.startswith("blk.0.")]
    for index in range(N_LAYER, N_LAYER + N_ADDED):
        for tensor in layer:
            name = tensor.name.replace("blk.0.", f"blk.{index}.")
            is_output = name.endswith(("attn_output.weight", "ffn_down.weight"))
            data = np.zeros_like(tensor.data) if is_output else tensor.data
            writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
    write(writer)


def _make_wide(pipeinfer: str, path: Path) -> None:
    reader = gguf.GGUFReader(smollm2(pipeinfer))
    shape = Shape(
        n_layer=N_WIDE_LAYERS,
        n_embd=2048,
        n_ff=5632,
        n_vocab=len(reader.fields["tokenizer.ggml.tokens"].data),
        n_head=32,
        n_head_kv=8,
    )
    writer = begin(path, "llama", shape)
    writer.add_rope_dimension_count(shape.head_dim)
    copy_fields(reader, writer, "tokenizer.")
    for name, size in tensor_shapes(shape, tied=True).items():
        values = weights(name, size)
        writer.add_tensor(name, values if len(size) == 1 else values.astype(np.float16))
    write(writer)


@cache
def _token_texts(path: Path) -> list[str]:
    texts: list[str] = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    return texts


@cache
def token_lengths(path: Path) -> list[int]:
    """Bytes of each token's text: a character of byte-level BPE is one. Control tokens: 0."""
    kinds: list[int] = gguf.GGUFReader(path).fields["tokenizer.ggml.token_type"].contents()
    pairs = zip(_token_texts(path), kinds, strict=True)
    return [0 if kind == gguf.TokenType.CONTROL else len(text) for text, kind in pairs]


def words(path: Path, n_tokens: int) -> str:
    """A text of words that are a token each, without repetition as far as words last."""
    whole = [text for text in _token_texts(path) if text[:1] == SPACE and text[1:].isalpha()]
    plain = [text[1:] for text in whole if text[1:].isascii() and text[1:].islower()]
    random.Random(0).shuffle(plain)
    return "".join(f" {plain[at % len(plain)]}" for at in range(n_tokens))
