"""A tiny random GGUF: names of tensors to shapes, keys, and what writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import quantize

from random_gguf import write

N_EMBD, N_FF, N_EXPERT, N_EXPERT_USED = 128, 160, 4, 2
N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 32
N_CTX = 256
N_VOCAB = 320
# Tensors that stay F32 in any file.
FLOATS = re.compile(r"norm|ffn_gate_inp|conv1d|conv\.conv|altup_.*_coef")
WINDOW = 8  # of the layers with a sliding window: shorter than the texts that tests decode

Shape: TypeAlias = "tuple[int, ...]"
Value: TypeAlias = "bool | int | float | str | list[bool] | list[int] | list[float]"
LayerShapes: TypeAlias = Callable[[int], Mapping[str, Shape]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """What one GGUF is made of. Names of tensors end in .weight unless they say otherwise.

    With a dot at its end a name is complete without it.
    """

    name: str
    arch: str
    known_as: str  # models of this kind, for the table
    special: str  # what its layers have that plain ones have not, for the table
    layer: LayerShapes  # layer index to the tensors of that layer
    keys: Mapping[str, Value] = field(default_factory=dict)  # without the architecture's prefix
    keys_as_they_are: Mapping[str, Value] = field(default_factory=dict)
    ends: Mapping[str, Shape] = field(default_factory=dict)  # beside embedding, norm and output
    last_norm: str = "output_norm"
    n_layer: int = 5
    nextn: LayerShapes | None = None  # the tensors of a prediction layer; None: there is none
    is_tied: bool = False
    first_position: int = 0  # of the texts that tests decode
    expert_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0

    def write(self, path: Path) -> Path:
        """Writes the GGUF. Same contents every time."""
        writer = gguf.GGUFWriter(path, self.arch)
        for key, value in {**_common_keys(self), **self.keys}.items():
            _add(writer, f"{self.arch}.{key}", value)
        for key, value in self.keys_as_they_are.items():
            _add(writer, key, value)
        _add_vocabulary(writer)
        for name, shape in self._shapes().items():
            data, quantized_as = self._tensor(name, shape)
            writer.add_tensor(name, data, raw_dtype=quantized_as)
        write(writer)
        return path

    def _shapes(self) -> dict[str, Shape]:
        ends = {"token_embd": (N_VOCAB, N_EMBD), self.last_norm: (N_EMBD,), **self.ends}
        if not self.is_tied:
            ends["output"] = (N_VOCAB, N_EMBD)
        blocks = [self.layer(i) for i in range(self.n_layer)]
        if self.nextn is not None:
            blocks.append(self.nextn(self.n_layer))
        layers = {
            f"blk.{i}.{name}": shape
            for i, block in enumerate(blocks)
            for name, shape in block.items()
        }
        return {_full_name(name): shape for name, shape in {**ends, **layers}.items()}

    def _tensor(
        self, name: str, shape: Shape
    ) -> tuple[npt.NDArray[np.float32 | np.uint8], gguf.GGMLQuantizationType]:
        values = _weights(name, shape)
        kind = gguf.GGMLQuantizationType.F32
        if "_exps.weight" in name:
            kind = self.expert_type
        elif name.endswith(".weight") and len(shape) > 1 and not FLOATS.search(name):
            kind = gguf.GGMLQuantizationType.Q8_0
        if kind is gguf.GGMLQuantizationType.F32:
            return values, kind
        return quantize(values, kind), kind


def _full_name(name: str) -> str:
    if name.endswith("."):
        return name[:-1]
    is_full = name.endswith((".bias", ".scale", ".weight", ".exp_probs_b"))  # the last: Hunyuan 3
    return name if is_full else f"{name}.weight"


def _weights(name: str, shape: Shape) -> npt.NDArray[np.float32]:
    """Near one for a norm or scale, positive for factors, else normal, scaled as a row needs.

    States decay, at rates between a tenth and one.
    """
    random = np.random.default_rng(list(name.encode()))
    if name.endswith("ssm_a"):
        return -random.uniform(0.1, 1, shape).astype(np.float32)
    if "rope_" in name:
        return random.uniform(1, 4, shape).astype(np.float32)
    if ("norm" in name and not name.endswith(".bias")) or "scale" in name:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("attn_sinks.weight"):  # some above all scores of a text, some below
        return random.uniform(-2, 4, shape).astype(np.float32)
    return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _common_keys(model: TinyModel) -> dict[str, Value]:
    return {
        "context_length": N_CTX,
        "block_count": model.n_layer + (model.nextn is not None),
        "embedding_length": N_EMBD,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        **({} if model.nextn is None else {"nextn_predict_layers": 1}),
    }


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Bytes, and a few words: any text has tokens."""
    control = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    words = [f"\N{LOWER ONE EIGHTH BLOCK}w{i}" for i in range(N_VOCAB - len(control + bytes_))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * len(bytes_) + [gguf.TokenType.NORMAL] * len(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(control + bytes_ + words)
    writer.add_token_scores([-float(i) for i in range(N_VOCAB)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
