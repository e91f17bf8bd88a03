"""Model files as libpipeinfer reads them: headers, tensor types, requantization."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from ctypes import c_int32, c_uint64
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import ERROR_BYTES, OK, decoded
from pipeinfer_cli.errors import RunError, UserError

MAX_LAYERS = 512
MAX_TENSOR_TYPES = 1024  # far more than there are: larger numbers are damage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a GGUF says of itself."""

    arch: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    can_split: bool
    tied_output: bool  # the output head is the token embedding
    layer_bytes: tuple[int, ...]  # [n_layer]
    bytes_input: int  # what only the first stage needs; with tied_output the last one, too
    bytes_output: int  # what only the last stage needs
    bytes_total: int
    n_positions: int = 0  # that it has embeddings for; 0: any


def read_model_info(path: Path) -> ModelInfo:
    """Reads a GGUF's header. UserError if the file is missing, truncated or no model."""
    info = abi.ModelInfo()
    layer_bytes = (c_uint64 * MAX_LAYERS)()
    err = ctypes.create_string_buffer(ERROR_BYTES)
    status = abi.load().pi_model_info_read(
        os.fsencode(path), info, layer_bytes, MAX_LAYERS, err, ERROR_BYTES
    )
    if status != OK:
        raise UserError(
            f"cannot use the model {str(path)!r}: {decoded(err.value)}: check -m/--model"
        )
    return ModelInfo(
        arch=decoded(info.arch),
        n_layer=info.n_layer,
        n_embd=info.n_embd,
        n_vocab=info.n_vocab,
        n_ctx_train=info.n_ctx_train,
        can_split=bool(info.can_split),
        tied_output=bool(info.tied_output),
        layer_bytes=tuple(layer_bytes[: info.n_layer]),
        bytes_input=info.bytes_input,
        bytes_output=info.bytes_output,
        bytes_total=info.bytes_total,
        n_positions=info.n_positions,
    )


@cache
def stage_archs() -> tuple[str, ...]:
    """The architectures (general.architecture) that can be split by layers, sorted."""
    names = takewhile(bool, (abi.load().pi_stage_arch(i) for i in itertools.count()))
    return tuple(sorted(decoded(name) for name in names))


@cache
def tensor_type(type_id: int) -> tuple[int, int] | None:
    """Elements and bytes of one block of a tensor type (enum ggml_type); None: no such type."""
    n_elements, n_bytes = c_int32(), c_int32()
    if not 0 <= type_id < MAX_TENSOR_TYPES:
        return None
    if abi.load().pi_tensor_type(type_id, n_elements, n_bytes) != OK:
        return None
    return n_elements.value, n_bytes.value


def quantize(
    source: Path,
    target: Path,
    *,
    file_type: int,
    n_threads: int,
    left_out: Sequence[int] = (),
    notes: tuple[str, str, str],
) -> None:
    """Writes a GGUF again as another type (enum llama_ftype, or -1), and without some layers.

    The notes (source, its SHA-256, how), of at most 127 bytes each, go into the metadata. RunError
    if it fails; a full disk may go unnoticed, and a damaged file may end the process.
    """
    err = ctypes.create_string_buffer(ERROR_BYTES)
    params = abi.QuantizeParams(
        file_type,
        n_threads,
        len(left_out),
        (c_int32 * len(left_out))(*left_out),
        *(note.encode() for note in notes),
    )
    status = abi.load().pi_quantize(
        os.fsencode(source), os.fsencode(target), params, err, ERROR_BYTES
    )
    if status != OK:
        raise RunError(decoded(err.value))
