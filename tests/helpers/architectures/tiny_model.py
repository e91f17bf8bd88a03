"""A tiny random GGUF of each architecture that splits, with every special case of its layers.

tests/mpi/test_architectures.py shows on real ranks that split == whole for each of them, and that
they are the ones llama.cpp's patch admits. The table in docs/architectures.md is made from here:

    python tests/helpers/architectures.py > docs/architectures.md
"""

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
FLOATS = re.compile("norm|ffn_gate_inp")  # tensors that stay F32 in any file
WINDOW = 8  # of the layers with a sliding window: shorter than the texts that tests decode

Shape: TypeAlias = "tuple[int, ...]"
Value: TypeAlias = "bool | int | float | str | list[bool] | list[int]"
LayerShapes: TypeAlias = Callable[[int], Mapping[str, Shape]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """What one GGUF is made of. Names of tensors end in .weight unless they say otherwise."""

    name: str
    arch: str
    known_as: str  # models of this kind, for the table
    special: str  # what its layers have that plain ones have not, for the table
    layer: LayerShapes  # layer index to the tensors of that layer
    keys: Mapping[str, Value] = field(default_factory=dict)  # without the architecture's prefix
    ends: Mapping[str, Shape] = field(default_factory=dict)  # beside embedding, norm and output
    n_layer: int = 5
    is_tied: bool = False
    expert_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0

    def write(self, path: Path) -> Path:
        """Writes the GGUF. Same contents every time."""
        writer = gguf.GGUFWriter(path, self.arch)
        for key, value in {**_common_keys(self), **self.keys}.items():
            _add(writer, f"{self.arch}.{key}", value)
        _add_vocabulary(writer)
        for name, shape in self._shapes().items():
            data, quantized_as = self._tensor(name, shape)
            writer.add_tensor(name, data, raw_dtype=quantized_as)
        write(writer)
        return path

    def _shapes(self) -> dict[str, Shape]:
        ends = {"token_embd": (N_VOCAB, N_EMBD), "output_norm": (N_EMBD,), **self.ends}
        if not self.is_tied:
            ends["output"] = (N_VOCAB, N_EMBD)
        layers = {
            f"blk.{i}.{name}": shape
            for i in range(self.n_layer)
            for name, shape in self.layer(i).items()
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
    return name if name.endswith((".bias", ".weight")) else f"{name}.weight"


def _weights(name: str, shape: Shape) -> npt.NDArray[np.float32]:
    """Near one for a norm, positive for factors, else normal, scaled as an input's row needs."""
    random = np.random.default_rng(list(name.encode()))
    if "rope_" in name:
        return random.uniform(1, 4, shape).astype(np.float32)
    if "norm" in name and name.endswith(".weight"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
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
        "block_count": model.n_layer,
        "embedding_length": N_EMBD,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
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


# Pieces of layers: names of tensors to shapes, rows first.


def attention(
    *, bias: bool = False, head_dim: int = HEAD_DIM, n_head: int = N_HEAD
) -> dict[str, Shape]:
    n_q, n_kv = n_head * head_dim, N_HEAD_KV * head_dim
    weights = {
        "attn_q": (n_q, N_EMBD),
        "attn_k": (n_kv, N_EMBD),
        "attn_v": (n_kv, N_EMBD),
        "attn_output": (N_EMBD, n_q),
    }
    biases = {"attn_q.bias": (n_q,), "attn_k.bias": (n_kv,), "attn_v.bias": (n_kv,)}
    return {**weights, **biases} if bias else {**weights}


def fused_attention() -> dict[str, Shape]:
    n_q, n_kv = N_HEAD * HEAD_DIM, N_HEAD_KV * HEAD_DIM
    return {"attn_qkv": (n_q + 2 * n_kv, N_EMBD), "attn_output": (N_EMBD, n_q)}


def norms(*names: str) -> dict[str, Shape]:
    return dict.fromkeys(names, (N_EMBD,))


def head_norms() -> dict[str, Shape]:
    return {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}


def feed_forward(suffix: str = "", n_ff: int = N_FF) -> dict[str, Shape]:
    return {
        f"ffn_gate{suffix}": (n_ff, N_EMBD),
        f"ffn_up{suffix}": (n_ff, N_EMBD),
        f"ffn_down{suffix}": (N_EMBD, n_ff),
    }


def experts(n_ff: int) -> dict[str, Shape]:
    return {
        "ffn_gate_inp": (N_EXPERT, N_EMBD),
        "ffn_gate_exps": (N_EXPERT, n_ff, N_EMBD),
        "ffn_up_exps": (N_EXPERT, n_ff, N_EMBD),
        "ffn_down_exps": (N_EXPERT, N_EMBD, n_ff),
    }


def plain_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **feed_forward()}


def biased_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **attention(bias=True)}


def head_normed_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **head_norms()}


def mixture_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **experts(N_FF)}


def qwen2moe_layer(_: int) -> dict[str, Shape]:
    shared = {**feed_forward("_shexp", 96), "ffn_gate_inp_shexp": (N_EMBD,)}
    return {
        **norms("attn_norm", "ffn_norm"),
        **attention(bias=True),
        **experts(64),
        **shared,
    }


def qwen3moe_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm", "ffn_norm"), **attention(), **head_norms(), **experts(64)}


def gemma2_layer(_: int) -> dict[str, Shape]:
    return {**plain_layer(0), **norms("post_attention_norm", "post_ffw_norm")}


def gemma3_layer(_: int) -> dict[str, Shape]:
    return {**gemma2_layer(0), **head_norms()}


def phi3_layer(_: int) -> dict[str, Shape]:
    ffn = {"ffn_up": (2 * N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
    return {**norms("attn_norm", "ffn_norm"), **fused_attention(), **ffn}


def falcon_layer(_: int) -> dict[str, Shape]:
    ffn = {"ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
    return {**norms("attn_norm", "attn_norm.bias"), **fused_attention(), **ffn}


def falcon_40b_layer(_: int) -> dict[str, Shape]:
    return {**falcon_layer(0), **norms("attn_norm_2", "attn_norm_2.bias")}


def olmo2_layer(_: int) -> dict[str, Shape]:
    row_norms = {"attn_q_norm": (N_EMBD,), "attn_k_norm": (N_HEAD_KV * HEAD_DIM,)}
    after = norms("post_attention_norm", "post_ffw_norm")
    return {**attention(), **row_norms, **after, **feed_forward()}


def starcoder2_layer(_: int) -> dict[str, Shape]:
    biases = {"attn_output.bias": (N_EMBD,), "ffn_up.bias": (N_FF,), "ffn_down.bias": (N_EMBD,)}
    return {
        **norms("attn_norm", "attn_norm.bias", "ffn_norm", "ffn_norm.bias"),
        **attention(bias=True),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
        **biases,
    }


def command_r_layer(_: int) -> dict[str, Shape]:
    return {**norms("attn_norm"), **attention(), **feed_forward()}


def command_r_plus_layer(_: int) -> dict[str, Shape]:
    per_head = {"attn_q_norm": (N_HEAD, HEAD_DIM), "attn_k_norm": (N_HEAD_KV, HEAD_DIM)}
    return {**command_r_layer(0), **per_head}


N_ROT, N_NOPE, V_DIM, KV_RANK, Q_RANK = 32, 32, 32, 64, 96


def deepseek2_attention(*, is_lite: bool) -> dict[str, Shape]:
    """Keys and values from a low-rank state; lite models have no such state for queries."""
    k_dim = N_NOPE + N_ROT
    query: dict[str, Shape] = {
        "attn_q_a": (Q_RANK, N_EMBD),
        "attn_q_a_norm": (Q_RANK,),
        "attn_q_b": (N_HEAD * k_dim, Q_RANK),
    }
    return {
        **norms("attn_norm", "ffn_norm"),
        **({"attn_q": (N_HEAD * k_dim, N_EMBD)} if is_lite else query),
        "attn_kv_a_mqa": (KV_RANK + N_ROT, N_EMBD),
        "attn_kv_a_norm": (KV_RANK,),
        "attn_output": (N_EMBD, N_HEAD * V_DIM),
    }


def deepseek2_ffn(layer: int, n_dense: int) -> dict[str, Shape]:
    return feed_forward() if layer < n_dense else {**experts(64), **feed_forward("_shexp", 64)}


def deepseek2_layer(layer: int) -> dict[str, Shape]:
    absorbed = {"attn_k_b": (N_HEAD, KV_RANK, N_NOPE), "attn_v_b": (N_HEAD, V_DIM, KV_RANK)}
    attention_ = {**deepseek2_attention(is_lite=False), **absorbed}
    bias = {} if layer < 3 else {"exp_probs_b.bias": (N_EXPERT,)}
    return {**attention_, **deepseek2_ffn(layer, 3), **bias}


def deepseek2_lite_layer(layer: int) -> dict[str, Shape]:
    both = {"attn_kv_b": (N_HEAD * (N_NOPE + V_DIM), KV_RANK)}
    return {**deepseek2_attention(is_lite=True), **both, **deepseek2_ffn(layer, 1)}


DEEPSEEK2_KEYS: dict[str, Value] = {
    "attention.kv_lora_rank": KV_RANK,
    "rope.dimension_count": N_ROT,
    "expert_count": N_EXPERT,
    "expert_used_count": N_EXPERT_USED,
    "expert_shared_count": 1,
    "expert_feed_forward_length": 64,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_log_multiplier": 0.0707,
}


def gpt_oss_layer(_: int) -> dict[str, Shape]:
    return {
        **norms("attn_norm", "post_attention_norm", "attn_output.bias"),
        **attention(bias=True),
        "attn_sinks": (N_HEAD,),
        **experts(64),
        "ffn_gate_inp.bias": (N_EXPERT,),
        "ffn_gate_exps.bias": (N_EXPERT, 64),
        "ffn_up_exps.bias": (N_EXPERT, 64),
        "ffn_down_exps.bias": (N_EXPERT, N_EMBD),
    }


MIXTURE: dict[str, Value] = {"expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED}
HEADS: dict[str, Value] = {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM}
LONG_ROPE: dict[str, Shape] = {
    "rope_factors_long": (HEAD_DIM // 2,),
    "rope_factors_short": (HEAD_DIM // 2,),
}

TINY_MODELS = (
    TinyModel(
        name="llama",
        arch="llama",
        known_as="Llama 1 to 3, Mistral, SmolLM2, TinyLlama",
        special="frequency factors of Llama 3 (one tensor for all layers)",
        layer=plain_layer,
        ends={"rope_freqs": (HEAD_DIM // 2,)},
        is_tied=True,
    ),
    TinyModel(
        name="llama-moe",
        arch="llama",
        known_as="Mixtral",
        special="mixture of experts",
        layer=mixture_layer,
        keys=MIXTURE,
    ),
    TinyModel(
        name="qwen2",
        arch="qwen2",
        known_as="Qwen 2, 2.5",
        special="biases of queries, keys and values",
        layer=biased_layer,
        is_tied=True,
    ),
    TinyModel(
        name="qwen2moe",
        arch="qwen2moe",
        known_as="Qwen 1.5 and 2 MoE",
        special="mixture of experts, a shared expert with a gate",
        layer=qwen2moe_layer,
        keys={
            **MIXTURE,
            "expert_feed_forward_length": 64,
            "expert_shared_feed_forward_length": 96,
        },
    ),
    TinyModel(
        name="qwen3",
        arch="qwen3",
        known_as="Qwen 3",
        special="norms of queries and keys",
        layer=head_normed_layer,
        keys=HEADS,
    ),
    TinyModel(
        name="qwen3-embedding",
        arch="qwen3",
        known_as="Qwen 3 Embedding",
        special="hidden states that are to be pooled",
        layer=head_normed_layer,
        keys={**HEADS, "pooling_type": 3},
    ),
    TinyModel(
        name="qwen3moe",
        arch="qwen3moe",
        known_as="Qwen 3 MoE",
        special="mixture of experts, norms of queries and keys",
        layer=qwen3moe_layer,
        keys={**HEADS, **MIXTURE, "expert_feed_forward_length": 64},
    ),
    TinyModel(
        name="gemma",
        arch="gemma",
        known_as="Gemma",
        special="scaled embeddings, tied output",
        layer=plain_layer,
        keys=HEADS,
        is_tied=True,
    ),
    TinyModel(
        name="gemma2",
        arch="gemma2",
        known_as="Gemma 2",
        special="scaled embeddings, every other layer with a sliding window, capped logits",
        layer=gemma2_layer,
        keys={
            **HEADS,
            "attention.sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
        is_tied=True,
    ),
    TinyModel(
        name="gemma3",
        arch="gemma3",
        known_as="Gemma 3 (text)",
        special="scaled embeddings, five of six layers with a sliding window and a rotation of "
        "their own",
        layer=gemma3_layer,
        n_layer=8,
        keys={**HEADS, "attention.sliding_window": WINDOW, "rope.freq_base": 1e6},
        is_tied=True,
    ),
    TinyModel(
        name="phi3",
        arch="phi3",
        known_as="Phi 3, 3.5, 4",
        special="fused projections, long-context factors (one tensor for all layers)",
        layer=phi3_layer,
        ends=LONG_ROPE,
        keys={"rope.scaling.original_context_length": N_CTX // 4},
    ),
    TinyModel(
        name="phi3-short",
        arch="phi3",
        known_as="Phi 3, in its original context",
        special="short-context factors",
        layer=phi3_layer,
        ends=LONG_ROPE,
        keys={"rope.scaling.original_context_length": N_CTX},
    ),
    TinyModel(
        name="falcon",
        arch="falcon",
        known_as="Falcon 7B",
        special="attention and feed-forward side by side",
        layer=falcon_layer,
        ends=norms("output_norm.bias"),
    ),
    TinyModel(
        name="falcon-40b",
        arch="falcon",
        known_as="Falcon 40B, 180B",
        special="a norm of its own for attention",
        layer=falcon_40b_layer,
        ends=norms("output_norm.bias"),
    ),
    TinyModel(
        name="granite",
        arch="granite",
        known_as="Granite 3",
        special="scales of embedding, residual, attention and logits",
        layer=plain_layer,
        keys={
            "logit_scale": 6.0,
            "residual_scale": 0.22,
            "embedding_scale": 12.0,
            "attention.scale": 0.0625,
        },
        is_tied=True,
    ),
    TinyModel(
        name="olmo2",
        arch="olmo2",
        known_as="OLMo 2",
        special="norms after attention and feed-forward",
        layer=olmo2_layer,
    ),
    TinyModel(
        name="olmo3",
        arch="olmo2",
        known_as="OLMo 3",
        special="three of four layers with a sliding window and no frequency scaling",
        layer=olmo2_layer,
        n_layer=6,
        keys={
            "attention.sliding_window": WINDOW,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    TinyModel(
        name="starcoder2",
        arch="starcoder2",
        known_as="StarCoder 2",
        special="biases everywhere",
        layer=starcoder2_layer,
        ends=norms("output_norm.bias"),
        is_tied=True,
    ),
    TinyModel(
        name="command-r",
        arch="command-r",
        known_as="Command R",
        special="attention and feed-forward side by side, scaled logits",
        layer=command_r_layer,
        keys={"logit_scale": 0.0625},
        is_tied=True,
    ),
    TinyModel(
        name="command-r-plus",
        arch="command-r",
        known_as="Command R+",
        special="64 layers or more: queries and keys have norms",
        layer=command_r_plus_layer,
        n_layer=64,
        keys={"logit_scale": 0.0625},
        is_tied=True,
    ),
    TinyModel(
        name="deepseek2",
        arch="deepseek2",
        known_as="DeepSeek V2, V3, R1",
        special="latent attention, three leading dense layers, then experts with a bias and "
        "a shared one",
        layer=deepseek2_layer,
        n_layer=6,
        keys={
            **DEEPSEEK2_KEYS,
            "leading_dense_block_count": 3,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": Q_RANK,
            "attention.key_length": KV_RANK + N_ROT,
            "attention.value_length": KV_RANK,
            "attention.key_length_mla": N_NOPE + N_ROT,
            "attention.value_length_mla": V_DIM,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
        },
    ),
    TinyModel(
        name="deepseek2-lite",
        arch="deepseek2",
        known_as="DeepSeek V2 Lite",
        special="27 layers: llama.cpp infers that queries are not low-rank; one dense layer",
        layer=deepseek2_lite_layer,
        n_layer=27,
        keys={
            **DEEPSEEK2_KEYS,
            "leading_dense_block_count": 1,
            "attention.head_count_kv": N_HEAD,
            "attention.key_length": N_NOPE + N_ROT,
            "attention.value_length": V_DIM,
        },
    ),
    TinyModel(
        name="gpt-oss",
        arch="gpt-oss",
        known_as="gpt-oss",
        special="attention sinks, every other layer with a sliding window, experts in MXFP4",
        layer=gpt_oss_layer,
        keys={
            **HEADS,
            **MIXTURE,
            "expert_feed_forward_length": 64,
            "attention.sliding_window": WINDOW,
        },
        expert_type=gguf.GGMLQuantizationType.MXFP4,
    ),
)

INTRODUCTION = """\
# Architectures that split

Models of these architectures (`general.architecture` of their GGUF) can be split by layers over
ranks; others with a KV cache run whole (`--ranks 1`), other kinds are refused.
Each line stands for a tiny random model that
`tests/mpi/test_architectures.py` decodes on real ranks, split at every boundary and with inner
layers as stages of their own. Its logits must be those of the whole model, bit for bit, also after
positions were taken back; and those of the unpatched llama.cpp that decodes one token at a
time. `tests/native/test_architecture_shapes.py` shows for the same models
that logits do not depend on how many tokens are decoded at a time. Weights are Q8_0, experts of
gpt-oss MXFP4, norms and routers F32.

This file is made by `make docs-architectures`.
"""


def table() -> str:
    """docs/architectures.md."""
    rows = [
        ("architecture", "models", "what its test has", "layers"),
        ("---", "---", "---", "---"),
        *(
            (
                f"`{model.arch}`",
                model.known_as,
                model.special,
                str(model.n_layer),
            )
            for model in TINY_MODELS
        ),
    ]
    return INTRODUCTION + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    print(table(), end="")
