"""What a GGUF says of its model, from the headers of all its files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeinfer_cli.engine.abi import ERROR_BYTES, decoded
from pipeinfer_cli.engine.formats import stage_archs
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.kv import KvShape, kv_shapes
from pipeinfer_cli.models.gguf.obstacles import find_obstacle
from pipeinfer_cli.models.gguf.reader import (
    ARRAY,
    BOOL,
    UINT32,
    UINT64,
    GgufFile,
    Tensor,
    UnusableGgufError,
)
from pipeinfer_cli.models.gguf.recurrent import keyless_layers, state_layer_bytes

MAX_LAYERS = 512
MAX_COUNT = 2**31 - 1
MAX_ARCH_BYTES = 63
LAYER = re.compile(r"blk\.([-+]?\d+)", re.ASCII)
SHARD_PREFIX = "pipeinfer.shard."
NOT_MULTIPLIED = {  # enum ggml_type: can be in a file, but nothing multiplies them
    9: "q8_1",
    15: "q8_K",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a GGUF says of itself."""

    arch: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    can_split: bool
    obstacle: str = ""  # why it cannot be split, where more than its architecture says so
    tied_output: bool  # the output head is the token embedding
    layer_bytes: tuple[int, ...]  # [n_layer]
    bytes_input: int  # what only the first stage needs; with tied_output the last one, too
    bytes_output: int  # what only the last stage needs
    bytes_total: int
    n_positions: int = 0  # that it has embeddings for; 0: any
    weight_types: tuple[int, ...] = ()  # enum ggml_type of the tensors that are multiplied, sorted
    kv: tuple[KvShape, ...] = ()  # [n_layer] of the KV cache; none: the file does not say
    state_bytes: tuple[int, ...] = ()  # [n_layer] of one recurrent state; none: there are none
    has_experts: bool = False  # of which a token takes some
    n_layer_nextn: int = 0  # prediction layers, which come after the others and are never loaded
    bytes_nextn: int = 0  # of those in the file


def read_model_info(path: Path) -> ModelInfo:
    """What the headers say; of a shard, the numbers are the whole model's.

    Of a model in several files, `path` is the first, and all are read. UserError if one is missing,
    truncated or no GGUF, or if the model lacks what every model has.
    """
    try:
        return _read(path)
    except UnusableGgufError as error:
        why = _one_line(error.why, ERROR_BYTES - 1)
        raise UserError(f"cannot use the model {str(path)!r}: {why}: check -m/--model") from None


def _read(path: Path) -> ModelInfo:
    parts = reader.read_parts(path)
    first = parts[0]
    arch = first.text("general.architecture")
    if arch is None:
        raise UnusableGgufError("the GGUF has no general.architecture")
    n_layer, n_layer_nextn = layer_counts(first, arch)
    n_embd = _count(first, f"{arch}.embedding_length")
    n_ctx_train = _count(first, f"{arch}.context_length")
    n_vocab = _n_vocab(first)
    weights = _Weights(layer_bytes=[0] * n_layer, n_layer_nextn=n_layer_nextn)
    for index, part in enumerate(parts):
        with reader.named_part(part.path, index, len(parts)):
            weights.add(part.tensors)
    weights.take_shard(first)
    states = state_layer_bytes(parts, arch, n_embd)
    obstacle = find_obstacle(first, arch)
    return ModelInfo(
        arch=_one_line(arch, MAX_ARCH_BYTES),
        n_layer=n_layer,
        n_embd=n_embd,
        n_vocab=n_vocab,
        n_ctx_train=n_ctx_train,
        can_split=arch in stage_archs() and not obstacle,
        obstacle=obstacle,
        tied_output=weights.tied_output,
        layer_bytes=tuple(weights.layer_bytes),
        bytes_input=weights.bytes_input,
        bytes_output=weights.bytes_output,
        bytes_total=sum(weights.layer_bytes) + weights.bytes_input + weights.bytes_output,
        n_positions=n_ctx_train if weights.has_positions else 0,
        weight_types=tuple(sorted(weights.types)),
        kv=kv_shapes(first, arch, n_layer, n_embd, without=keyless_layers(parts)),
        state_bytes=tuple(states.get(layer, 0) for layer in range(n_layer)) if states else (),
        has_experts=bool(first.count(f"{arch}.expert_count")),
        n_layer_nextn=n_layer_nextn,
        bytes_nextn=weights.bytes_nextn,
    )


def layer_counts(header: GgufFile, arch: str) -> tuple[int, int]:
    """The layers that a text needs, and those after them that predict further tokens.

    `block_count` includes both. UnusableGgufError if there are none, or too many.
    """
    n_blocks = _count(header, f"{arch}.block_count")
    nextn = f"{arch}.nextn_predict_layers"
    n_layer_nextn = _count(header, nextn) if nextn in header.fields else 0
    n_layer = n_blocks - n_layer_nextn
    if not 1 <= n_layer <= n_blocks <= MAX_LAYERS:
        predicting = f", {n_layer_nextn} of them for predictions" if n_layer_nextn else ""
        raise UnusableGgufError(f"the GGUF says that it has {n_blocks} layers{predicting}")
    return n_layer, n_layer_nextn


def _count(header: GgufFile, name: str) -> int:
    """A count of the model's: more than fits 31 bits is damage."""
    entry, value = header.fields.get(name), header.count(name)
    if entry is None or entry.kind != UINT32 or value is None:
        raise UnusableGgufError(f"the GGUF has no {name}")
    if value > MAX_COUNT:
        raise UnusableGgufError(f"the GGUF says that its {name} is {value}")
    return value


def _n_vocab(header: GgufFile) -> int:
    tokens = header.fields.get("tokenizer.ggml.tokens")
    if tokens is None or tokens.kind != ARRAY:
        raise UnusableGgufError("the GGUF has no vocabulary (tokenizer.ggml.tokens)")
    return tokens.count


@dataclass(slots=True, kw_only=True)
class _Weights:
    """The bytes of each layer's tensors, and of those before and after the layers."""

    layer_bytes: list[int] = field(default_factory=list)
    n_layer_nextn: int = 0
    bytes_input: int = 0
    bytes_output: int = 0
    bytes_nextn: int = 0
    tied_output: bool = True
    has_positions: bool = False
    types: set[int] = field(default_factory=set)

    def add(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            name = tensor.name
            _check_type(tensor)
            if not _is_table(tensor):
                self.types.add(tensor.type_id)
            self.has_positions = self.has_positions or name == "position_embd.weight"
            if layer := LAYER.match(name):
                self._add_layer(int(layer[1]), tensor)
            elif name.startswith("output"):
                self.bytes_output += tensor.n_bytes
                self.tied_output = self.tied_output and name != "output.weight"
            else:
                self.bytes_input += tensor.n_bytes

    def _add_layer(self, layer: int, tensor: Tensor) -> None:
        n_layer = len(self.layer_bytes)
        if not 0 <= layer < n_layer + self.n_layer_nextn:
            raise UnusableGgufError(
                f"tensor {tensor.name} is of a layer that the model does not have"
            )
        if layer < n_layer:
            self.layer_bytes[layer] += tensor.n_bytes
        else:
            self.bytes_nextn += tensor.n_bytes

    def take_shard(self, header: GgufFile) -> None:
        """A shard says what the whole model has; its own tensors must be all of its layers'."""
        record = {
            name: header.fields.get(f"{SHARD_PREFIX}{name}")
            for name in ("layer_bytes", "bytes_input", "bytes_output", "tied_output")
        }
        layers = record["layer_bytes"]
        if layers is None or layers.kind != ARRAY:
            return
        kinds = [None if entry is None else entry.kind for entry in record.values()]
        if (
            kinds != [ARRAY, UINT64, UINT64, BOOL]
            or layers.element != UINT64
            or layers.count != len(self.layer_bytes)
        ):
            raise UnusableGgufError(
                "what the GGUF says of the model that it is a shard of is damaged"
            )
        whole = [int(each) for each in header.numbers(layers.name) or ()]
        for layer, (own, n_bytes) in enumerate(zip(self.layer_bytes, whole, strict=True)):
            if own not in (0, n_bytes):
                raise UnusableGgufError(f"the shard lacks tensors of layer {layer}")
        self.layer_bytes = whole
        self.bytes_input = header.count(f"{SHARD_PREFIX}bytes_input") or 0
        self.bytes_output = header.count(f"{SHARD_PREFIX}bytes_output") or 0
        self.tied_output = bool(header.scalar(f"{SHARD_PREFIX}tied_output"))
        of_others = header.numbers(f"{SHARD_PREFIX}weight_types") or ()  # older shards have none
        self.types |= {int(each) for each in of_others if isinstance(each, int)}


def _check_type(tensor: Tensor) -> None:
    if tensor.type_id in NOT_MULTIPLIED and not _is_table(tensor):
        raise UnusableGgufError(
            f"tensor {tensor.name} has the type {NOT_MULTIPLIED[tensor.type_id]}, which llama.cpp "
            "cannot multiply (convert the model to another type)"
        )


def _is_table(tensor: Tensor) -> bool:
    """Token ids to others, or to experts."""
    return tensor.name == "d2t" or "tid2eid" in tensor.name


def _one_line(text: str, max_bytes: int) -> str:
    """A text of the file's in a message; it may hold any bytes."""
    return decoded(text.encode(errors="surrogateescape")[:max_bytes])
