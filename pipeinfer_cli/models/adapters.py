"""LoRA adapters: what --lora names, and whether an adapter fits a model, by the headers of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.engine.config import Adapter
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import expanded, is_there
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import NOT_MULTIPLIED, SHARD_PREFIX, ModelInfo
from pipeinfer_cli.models.gguf.reader import (
    FLOAT32,
    STRING,
    GgufFile,
    Tensor,
    UnusableGgufError,
    layer_of,
    quoted,
)
from pipeinfer_cli.models.shards import digest_of, file_digest

EMBEDDING = "token_embd.weight"
A, B = ".lora_a", ".lora_b"
IGNORED = "_norm.weight"  # llama.cpp leaves them out, too
KINDS = {  # entries that llama.cpp reads without looking at their type
    "general.type": STRING,
    "general.architecture": STRING,
    "adapter.type": STRING,
    "adapter.lora.alpha": FLOAT32,
}
MAX_SCALE = 1e6
INVOKED = "adapter.alora.invocation_tokens"


def parse_adapters(values: Sequence[str]) -> tuple[Adapter, ...]:
    """What each --lora names: FILE[:SCALE], or several with commas between. Raises UserError."""
    return tuple(each for value in values for each in _parse(value))


def _parse(value: str) -> Iterator[Adapter]:
    for part in [value] if is_there(_path(value)) else value.split(","):
        path, colon, scale = part.rpartition(":")
        if not colon or is_there(_path(part)):
            path, scale = part, "1"
        if not path:
            raise UserError(f"--lora {value!r}: give FILE, or FILE:SCALE")
        yield Adapter(path=_path(path), scale=_scale(part, scale))


def _scale(part: str, text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        raise UserError(
            f"--lora {part!r}: there is no such file, and {text!r} is not a scale"
        ) from None
    if not abs(scale) <= MAX_SCALE:  # nor if it is not a number
        raise UserError(f"--lora {part!r}: give a scale from -{MAX_SCALE:g} to {MAX_SCALE:g}")
    return scale


def _path(text: str) -> Path:
    return expanded(text).absolute()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAdapter:
    """An adapter that fits the model, and what tells its file from others."""

    adapter: Adapter
    digest: str

    def here(self) -> Adapter:
        """The adapter, on this rank's host. UserError if it has another file there."""
        if _digest(self.adapter.path) != self.digest:
            raise UserError(f"--lora {str(self.adapter.path)!r} is not the file that the head has")
        return self.adapter

    def record(self) -> dict[str, str | float]:
        """What a text depends on."""
        return {"digest": self.digest, "scale": self.adapter.scale}


def check_adapters(
    adapters: Sequence[Adapter], model_path: Path, info: ModelInfo
) -> tuple[CheckedAdapter, ...]:
    """UserError, naming the file, for one that does not fit the model.

    Of a model in shards, `model_path` is one of them: of tensors that it does not have, only their
    layers' numbers can be checked, and each rank checks its own.
    """
    if not adapters:
        return ()
    base = _Base.read(model_path, info)
    return tuple(
        CheckedAdapter(adapter=each, digest=_checked(each.path, base)) for each in adapters
    )


def adapters_digest(adapters: Sequence[CheckedAdapter]) -> str:
    """Tells apart what is computed with these adapters, in this order; nothing without any."""
    return digest_of(repr([each.record() for each in adapters])) if adapters else ""


@dataclass(frozen=True, slots=True)
class _Base:
    """The model that an adapter is for."""

    info: ModelInfo
    tensors: dict[str, Tensor]
    is_whole: bool  # else a shard, which has some of the tensors

    @classmethod
    def read(cls, path: Path, info: ModelInfo) -> _Base:
        parts = reader.read_parts(path)
        tensors = {tensor.name: tensor for part in parts for tensor in part.tensors}
        return cls(info, tensors, f"{SHARD_PREFIX}stage" not in parts[0].fields)


def _checked(path: Path, base: _Base) -> str:
    try:
        header = reader.read(path)
        _check_fields(header, base.info)
        pairs = _pairs(header)
        if not pairs:
            raise UnusableGgufError("it has no tensors")
        for name, (a, b) in pairs.items():
            _check_pair(name, a, b, base)
    except UnusableGgufError as error:
        raise UserError(f"--lora {str(path)!r}: {error.why}") from None
    return _digest(path)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise UserError(f"--lora {str(path)!r}: {error.strerror}") from None


def _check_fields(header: GgufFile, info: ModelInfo) -> None:
    for name, kind in KINDS.items():
        field = header.fields.get(name)
        if field is not None and field.kind != kind:
            raise UnusableGgufError(f"its {name} has another type than llama.cpp reads")
    if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
        raise UnusableGgufError("not a LoRA adapter: convert one with convert_lora_to_gguf.py")
    arch = header.text("general.architecture") or ""
    if arch != info.arch:
        raise UnusableGgufError(
            f"it is for models of architecture {quoted(arch)}, and this one is {info.arch!r}"
        )
    if not math.isfinite(_alpha(header)):
        raise UnusableGgufError("its adapter.lora.alpha is not finite")
    if INVOKED in header.fields:
        raise UnusableGgufError(
            "it is to act from certain tokens of a text on only (aLoRA), which is not supported"
        )


def _alpha(header: GgufFile) -> float:
    value = header.scalar("adapter.lora.alpha")
    return float(value) if isinstance(value, float) else 0.0


def _pairs(header: GgufFile) -> dict[str, tuple[Tensor, Tensor]]:
    """By the name of the model's tensor: A, of the rank's rows, and B, of the rank's columns."""
    halves: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        name, suffix = tensor.name[: -len(A)], tensor.name[-len(A) :]
        if suffix in (A, B):
            halves.setdefault(name, {})[suffix] = tensor
        elif not tensor.name.endswith(IGNORED):
            raise UnusableGgufError(f"its tensor {quoted(tensor.name)} is none of a LoRA adapter")
        if tensor.type_id in NOT_MULTIPLIED:
            raise UnusableGgufError(
                f"its tensor {quoted(tensor.name)} has the type {NOT_MULTIPLIED[tensor.type_id]}, "
                "which nothing is multiplied with"
            )
    for name, found in halves.items():
        if len(found) < 2:
            raise UnusableGgufError(f"its pair of tensors for {quoted(name)} lacks one")
    return {name: (found[A], found[B]) for name, found in halves.items()}


def _check_pair(name: str, a: Tensor, b: Tensor, base: _Base) -> None:
    if name == EMBEDDING and base.info.tied_output:
        raise UnusableGgufError(
            f"it changes {EMBEDDING}, which is this model's output head as well: llama.cpp cannot "
            "compute that"
        )
    of = base.tensors.get(name)
    if of is None:
        layer = layer_of(name)
        is_known = name.startswith("output") if layer is None else layer < base.info.n_layer
        if base.is_whole or not is_known:
            raise UnusableGgufError(f"it changes {quoted(name)}, which the model does not have")
        return
    n_in, n_out, *more = _dims(of)
    rank = b.shape[0] if b.shape else 0
    if name == EMBEDDING:  # a token's row of A, times B
        fitting = (rank, n_out, *more), (rank, n_in, *more)
    else:
        fitting = (n_in, rank, *more), (rank, n_out, *more)
    if rank < 1 or (_dims(a), _dims(b)) != fitting:
        raise UnusableGgufError(
            f"its tensors for {quoted(name)} are {_shown(a)} and {_shown(b)}, which do not fit the "
            f"model's {_shown(of)}"
        )


def _dims(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape, 1, 1, 1, 1)[:4]


def _shown(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
